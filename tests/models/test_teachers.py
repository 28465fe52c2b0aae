"""Teachers: what they see, and how they meet the grid of a student; real architectures at a small size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.models.adapters import adapt
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.models.teachers import Teacher, load_teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeModel = Callable[..., nn.Module]
NAME = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
# What the authors of CLIP normalise by.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Teach = Callable[..., Teacher]


@pytest.fixture
def weights_settings(tiny_arguments: dict[str, Any]) -> dict[str, Any]:
    return {"source": "x", "backbone": NAME, "licence": "MIT", **tiny_arguments}


def test_it_is_frozen_and_stays_in_eval_mode(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    save_file(make_model().state_dict(), tmp_path / "teacher.safetensors")
    teacher = load_teacher(str(tmp_path / "teacher.safetensors"), weights_settings, student=contract)
    parent = nn.ModuleList([teacher]).train()
    assert parent.training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.fixture
def teach(tmp_path: Path, make_model: MakeModel, contract: Preprocess) -> Teach:
    """`teach(name, settings={}, **arguments)`: a real architecture of small size, as a timm folder."""

    def make(name: str, settings: dict[str, Any] | None = None, **arguments: Any) -> Teacher:
        if name.startswith("vit"):  # not the sizes that `make_model` gives a ViT
            arguments = {"img_size": 224, "patch_size": 16, **arguments}
        model = make_model(name, **arguments)
        timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
        return load_teacher(str(tmp_path / "timm"), settings or {}, student=contract)

    return make


def resampled(table: Tensor, grid: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Rows of a position table, without prefix, of a grid resampled bicubically to another one."""
    image = table.reshape(1, *grid, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(image, new, mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).flatten(1, 2)


def frozen(teacher: Teacher) -> bool:
    return not any(p.requires_grad for p in teacher.parameters()) and not any(m.training for m in teacher.modules())


def test_clip_meets_a_grid_of_14_with_images_of_196_pixels(teach: Teach) -> None:
    """CLIP's L/14 at 224 has 16 x 16 patches, a student of 224 with patches of 16 has 14 x 14."""
    teacher = teach("vit_large_patch14_clip_224", patch_size=14, **SMALL)
    before, model = teacher.model.pos_embed.clone(), teacher.model
    assert teacher.adapter.output_grid == (16, 16)
    teacher.match((14, 14))
    assert (teacher.adapter.size, teacher.adapter.output_grid) == ((196, 196), (14, 14))
    assert teacher.model is model is teacher.adapter.backbone
    assert frozen(teacher)
    wanted = torch.cat([before[:, :1], resampled(before[:, 1:], (16, 16), (14, 14))], dim=1)
    torch.testing.assert_close(model.pos_embed, wanted)  # the same float32 operations
    images = torch.randn(2, 3, 224, 224)
    tokens = teacher(images).final
    assert tokens.shape == (2, 1 + 14 * 14, 16)
    assert not tokens.requires_grad
    small = torch.nn.functional.interpolate(teacher.own_statistics(images), (196, 196), mode="bicubic", antialias=True)
    torch.testing.assert_close(tokens, model.forward_features(small))  # timm's own pass


def test_a_teacher_that_meets_the_grid_stays_as_it_is(teach: Teach) -> None:
    teacher = teach("vit_base_patch16_clip_224", img_size=64, **SMALL)
    before, adapter = teacher.model.pos_embed, teacher.adapter
    teacher.match((4, 4))
    assert teacher.model.pos_embed is before
    assert teacher.adapter is adapter


def test_registers_are_no_positions(teach: Teach) -> None:
    """DINOv2 with registers: neither these nor the class token have a row in its table."""
    teacher = teach("vit_small_patch14_reg4_dinov2", img_size=56, patch_size=14, **SMALL)
    before = teacher.model.pos_embed.clone()
    assert before.shape == (1, 16, 16)
    teacher.match((3, 5))
    assert (teacher.adapter.size, teacher.adapter.num_prefix) == ((42, 70), 5)
    torch.testing.assert_close(teacher.model.pos_embed, resampled(before, (4, 4), (3, 5)))
    images = torch.randn(2, 3, 48, 80)
    tokens = teacher(images).final
    assert tokens.shape == (2, 5 + 15, 16)
    torch.testing.assert_close(tokens, teacher.model.forward_features(teacher.prepare(images)))  # timm's own pass
    assert frozen(teacher)


@pytest.mark.parametrize(
    ("name", "arguments", "prefix"),
    [
        ("vit_base_patch16_224", {"class_token": False, "global_pool": "avg"}, 0),
        ("vit_base_patch16_siglip_224", {"class_token": False, "global_pool": "avg"}, 0),
        ("deit3_small_patch16_224", {}, 1),
        ("beit_base_patch16_224", {}, 1),
    ],
)
def test_other_transformers_meet_another_grid(teach: Teach, name: str, arguments: dict[str, Any], prefix: int) -> None:
    teacher = teach(name, **{"img_size": 32, "patch_size": 8, **SMALL, **arguments})
    teacher.match((3, 2))
    assert (teacher.adapter.size, teacher.adapter.num_prefix) == ((24, 16), prefix)
    assert teacher(torch.randn(2, 3, 24, 16)).final.shape == (2, prefix + 6, 16)
    assert frozen(teacher)


def test_a_swin_meets_another_grid(teach: Teach) -> None:
    shape = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "img_size": 32}
    teacher = teach("swin_tiny_patch4_window7_224", **shape)
    assert teacher.adapter.output_grid == (4, 4)
    teacher.match((6, 6))
    assert teacher.adapter.size == (48, 48)
    assert teacher(torch.randn(2, 3, 32, 32)).final.shape == (2, 36, 16)
    assert frozen(teacher)


def test_rotary_positions_meet_another_grid(teach: Teach) -> None:
    """EVA-02 has no adapter of its own: whole images only, without its class token."""
    teacher = teach("eva02_tiny_patch14_224", img_size=56, **{**SMALL, "embed_dim": 24})
    assert teacher.adapter.abilities == ("full", "blocks", "uniform")
    teacher.match((3, 5))
    assert teacher.adapter.size == (42, 70)
    assert teacher(torch.randn(2, 3, 48, 80), taps=[0]).taps[0].shape == (2, 15, 24)
    assert frozen(teacher)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_a_convnet_teaches_whole_images_of_any_size(teach: Teach, name: str) -> None:
    teacher = teach(name)
    assert teacher.adapter.abilities == ("full", "blocks", "sparse")
    teacher.match((2, 3))
    assert teacher.adapter.size == (64, 96)
    found = teacher(torch.randn(2, 3, 32, 48), taps=[teacher.adapter.depth - 1])
    assert found.final.shape[:2] == found.taps[teacher.adapter.depth - 1].shape[:2] == (2, 6)
    assert frozen(teacher)


def test_a_convnet_cannot_teach_a_masked_method(teach: Teach, make_model: MakeModel) -> None:
    teacher = teach("resnet10t")
    cls = METHODS.get("dmae")
    with pytest.raises(ConfigError, match=r"'dmae' needs a teacher with the ability 'visible'; ResNet can do full"):
        cls(adapt(make_model()), RandomMasking(), cls.Settings(), teacher)


def test_a_model_of_one_size_is_refused_with_both_grids(teach: Teach) -> None:
    teacher = teach("gmlp_ti16_224")
    with pytest.raises(
        ConfigError, match=r"patch grid 14x14 is not the student's 4x4, and it cannot be resized"
    ) as caught:
        teacher.match((4, 4))
    assert "choose backbone.img_size and backbone.patch_size so that they agree" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("vit_base_patch16_clip_224", CLIP_MEAN, CLIP_STD),
        ("vit_small_patch14_reg4_dinov2", IMAGENET_MEAN, IMAGENET_STD),
        ("vit_base_patch16_siglip_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_the_statistics_are_the_teachers_own(
    teach: Teach, name: str, mean: tuple[float, ...], std: tuple[float, ...], contract: Preprocess
) -> None:
    """The student's images are ImageNet's; what the teacher sees is normalised from the same raw pixels."""
    patch = {"patch_size": 14, "img_size": 28} if "14" in name else {"img_size": 32}
    teacher = teach(name, **patch, **SMALL)
    assert (teacher.origin.mean, teacher.origin.std) == (mean, std)
    raw = torch.rand(2, 3, *teacher.adapter.size)
    students, teachers = (
        (raw - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1)
        for m, s in ((contract.mean, contract.std), (mean, std))
    )
    # One multiplication and one addition in float32, on numbers up to 3.
    torch.testing.assert_close(teacher.prepare(students), teachers, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher(students).final, teacher.adapter.forward(teachers).final, rtol=1e-4, atol=1e-4)


def test_given_statistics_win_over_those_of_a_folder(teach: Teach) -> None:
    teacher = teach("vit_base_patch16_clip_224", {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 1]}, img_size=32, **SMALL)
    assert (teacher.origin.mean, teacher.origin.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 1.0))


@pytest.mark.parametrize("kind", ["ours", "timm", "weights"])
def test_positions_for_images_of_another_size_are_resampled_and_it_is_recorded(
    tmp_path: Path,
    make_model: MakeModel,
    contract: Preprocess,
    tiny_arguments: dict[str, Any],
    kind: str,
) -> None:
    """Weights for 4 x 4 patches, asked for as 3 x 5."""
    model = make_model()
    given: dict[str, Any] = {"img_size": [24, 40]}
    source = tmp_path / "teacher"
    if kind == "ours":
        save_checkpoint(
            source, model, CheckpointInfo(architecture=NAME, model_args=tiny_arguments, preprocess=contract)
        )
    elif kind == "timm":
        timm.models.save_for_hf(model, source, safe_serialization=True)
    else:
        source = tmp_path / "teacher.pth"
        torch.save(model.state_dict(), source)
        given = {"backbone": NAME, **tiny_arguments, **given}
    teacher = load_teacher(str(source), given, student=contract)
    assert teacher.origin.resampled_from == (4, 4)
    assert teacher.adapter.output_grid == (3, 5)
    before = model.pos_embed.detach()
    wanted = torch.cat([before[:, :1], resampled(before[:, 1:], (4, 4), (3, 5))], dim=1)
    torch.testing.assert_close(teacher.model.pos_embed, wanted)
    assert frozen(teacher)
    same = load_teacher(str(source), given | {"img_size": 32}, student=contract)
    assert same.origin.resampled_from is None
    assert torch.equal(same.model.pos_embed, before)


def test_a_table_without_rows_for_class_and_registers_is_resampled_whole(teach: Teach) -> None:
    shape = {"img_size": 56, "patch_size": 14, **SMALL}
    before = teach("vit_small_patch14_reg4_dinov2", **shape).model.pos_embed
    teacher = teach("vit_small_patch14_reg4_dinov2", {"img_size": [42, 70]}, **shape)
    assert teacher.origin.resampled_from == (4, 4)
    torch.testing.assert_close(teacher.model.pos_embed, resampled(before, (4, 4), (3, 5)))
