"""Backbones from timm, the adapters that let MIM methods drive them, and checkpoints on disk."""
