"""The settings of a training run, one table of a recipe per file."""
