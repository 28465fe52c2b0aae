"""An export that computes something else is refused, and the module where it starts is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edgemim.errors import EdgemimError
from edgemim.export.onnx import export_checkpoint


class _Shifted(torch.nn.Module):
    """Computes something else when it is exported."""

    def forward(self, images):
        return images.mean((2, 3)) + (1.0 if torch.compiler.is_exporting() else 0.0)


class _Bent(torch.nn.Module):
    """Computes another function when it is exported."""

    def forward(self, images):
        pooled = images.mean((2, 3))
        return torch.relu(pooled) if torch.compiler.is_exporting() else pooled


class _Inside(torch.nn.Module):
    """A sound layer, one that is given, and a sound one again."""

    def __init__(self, layer):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), layer, torch.nn.Linear(4, 2))

    def forward(self, images):
        return self.layers(images)


def test_an_export_that_computes_something_else_is_never_written(make_checkpoint, pixels, out):
    checkpoint = dataclasses.replace(make_checkpoint(), model=_Shifted().eval())
    with pytest.raises(EdgemimError, match=r"largest difference 1, limit 0\.0001, 9 of 9 outputs .* no module"):
        export_checkpoint(checkpoint, out, pixels=pixels)
    assert not out.exists()


def test_the_first_module_that_differs_is_named(make_checkpoint, pixels, out):
    checkpoint = dataclasses.replace(make_checkpoint(), model=_Inside(_Bent()).eval())
    with pytest.raises(EdgemimError, match=r"first module whose output differs is 'layers\.1', by 0\.\d+$"):
        export_checkpoint(checkpoint, out, pixels=np.concatenate([pixels, 255 - pixels]), batch_size=2)


def test_a_shift_that_the_next_layer_could_undo_is_named_with_that_layer(make_checkpoint, pixels, out):
    checkpoint = dataclasses.replace(make_checkpoint(), model=_Inside(_Shifted()).eval())
    with pytest.raises(EdgemimError, match=r"is 'layers\.1', by 1, and 'layers\.2' does not undo that$"):
        export_checkpoint(checkpoint, out, pixels=np.concatenate([pixels, 255 - pixels]), batch_size=4)
