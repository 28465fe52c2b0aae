"""Several stages in a row: from a checkpoint to a bundle, and the whole story of the quickstart."""
