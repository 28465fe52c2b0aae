"""The steps of a run: Lightning's Trainer, the module that takes a step, optimiser, precision, seeds."""
