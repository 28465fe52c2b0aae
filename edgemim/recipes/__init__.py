"""Recipes: the settings of published runs, and small ones for 32-pixel images, as TOML."""
