"""From decoded images to the batches of a run: in which order, cropped and flipped how, read by whom."""
