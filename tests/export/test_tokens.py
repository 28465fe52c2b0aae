"""Patch tokens beside the head's output."""

from __future__ import annotations

import pytest
import timm
import torch

from edgemim.errors import ConfigError
from edgemim.export.tokens import with_tokens

_SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
_WINDOWS = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}

# Name, arguments, size, then number and width of the tokens.
MODELS = [
    ("vit_tiny_patch16_224", _SMALL_VIT, 16, 32),
    ("vit_small_patch14_reg4_dinov2", {**_SMALL_VIT, "img_size": 28, "patch_size": 14}, 4, 32),
    ("deit_tiny_distilled_patch16_224", _SMALL_VIT, 16, 32),
    ("swin_tiny_patch4_window7_224", _WINDOWS, 16, 32),
    ("resnet10t", {}, 1, 512),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 1, 32),
]


def _model(name: str, arguments: dict[str, object]) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    size = int(str(arguments.get("img_size", 32)))
    return model, torch.randn(2, 3, size, size)


@pytest.mark.parametrize(("name", "arguments", "count", "width"), MODELS, ids=lambda value: str(value)[:24])
def test_the_head_s_output_stays_and_prefix_tokens_are_left_out(name, arguments, count, width):
    model, images = _model(name, arguments)
    with torch.no_grad():
        output, tokens = with_tokens(model)(images)
        assert torch.equal(output, model(images))
        features = model.forward_features(images)
    assert tokens.shape == (2, count, width)
    # The last token is the last patch, whatever the layout.
    last = features[:, -1] if features.ndim == 3 else features.permute(0, 3, 1, 2) if _is_nhwc(name) else features
    torch.testing.assert_close(tokens[:, -1], last if last.ndim == 2 else last[:, :, -1, -1], rtol=0, atol=0)


def _is_nhwc(name: str) -> bool:
    return name.startswith("swin")


def test_a_grid_becomes_tokens_row_by_row():
    model, _ = _model("resnet10t", {})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        tokens = with_tokens(model)(images)[1]
        features = model.forward_features(images)
    assert features.shape == (1, 512, 2, 3)
    assert torch.equal(tokens[0, 4], features[0, :, 1, 1])


def test_the_model_itself_stays_as_it_is():
    model, images = _model("vit_tiny_patch16_224", _SMALL_VIT)
    twin = with_tokens(model)
    assert isinstance(model(images), torch.Tensor)
    assert dict(twin.named_parameters()) == dict(model.named_parameters())


def test_a_model_of_another_make_is_refused():
    with pytest.raises(ConfigError, match=r"Linear has no forward_features .* --output head"):
        with_tokens(torch.nn.Linear(2, 2))


def test_features_of_another_kind_are_refused():
    model, images = _model("vit_tiny_patch16_224", _SMALL_VIT)
    model.forward_features = lambda images: (images, images)  # type: ignore[method-assign]
    model.forward_head = lambda features: features[0]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="forward_features of VisionTransformer returns tuple, neither"):
        with_tokens(model)(images)
