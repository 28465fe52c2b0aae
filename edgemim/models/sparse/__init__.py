"""Convnets that see visible cells only: the layers of a timm model, run as if hidden cells were not there."""
