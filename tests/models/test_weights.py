"""Weights from elsewhere: what is read, what is refused, and that nothing in a file ever runs."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemim.errors import CheckpointError
from edgemim.models.weights import build_fitting, load_matching, read_state_dict

Save = Callable[..., Path]


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Whatever is given, as torch saves it."""

    def write(value: Any, name: str = "weights.pth", **options: Any) -> Path:
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return write


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_safetensors_are_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    assert same(read_state_dict(tmp_path / "weights.safetensors"), tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(save: Save, tensors: dict[str, Tensor], zipped: bool) -> None:
    assert same(read_state_dict(save(tensors, _use_new_zipfile_serialization=zipped)), tensors)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(save: Save, tensors: dict[str, Tensor], key: str) -> None:
    arguments = argparse.Namespace(lr=1e-3, name="x")
    checkpoint = {key: OrderedDict(tensors), "epoch": 3, "args": arguments, "optimizer": {"state": {}}}
    assert same(read_state_dict(save(checkpoint)), tensors)


def test_settings_of_yacs_beside_the_weights_are_let_through(
    save: Save, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SimMIM's scripts save them; the package need not be installed to read the weights."""

    class CfgNode(dict[str, Any]):
        """Pickles as yacs' does: a dict of its own type, with attributes."""

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    settings = CfgNode(MODEL=CfgNode(TYPE="vit", DEPTH=12))
    settings.__dict__["__immutable__"] = True
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        file = save({"model": tensors, "config": settings, "max_accuracy": 0.0})
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    assert b"yacs.config\nCfgNode" in pickled
    assert same(read_state_dict(file), tensors)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_in_front_of_names_go(save: Save, tensors: dict[str, Tensor], wrapper: str) -> None:
    assert same(read_state_dict(save({wrapper + k: v for k, v in tensors.items()})), tensors)


def test_values_that_are_no_tensors_are_left_out(save: Save, tensors: dict[str, Tensor]) -> None:
    assert same(read_state_dict(save({**tensors, "epoch": 3, "name": "x"})), tensors)


@pytest.mark.parametrize("form", ["torch", "torch, nested", "torch, old format", "plain pickle"])
def test_a_pickle_with_code_is_refused_and_does_not_run(save: Save, tmp_path: Path, form: str) -> None:
    proof = tmp_path / "code-ran"
    code = Code(proof)
    if form == "plain pickle":
        file = tmp_path / "weights.pth"
        file.write_bytes(pickle.dumps({"a": code}))
    else:
        value = {"model": {"a": torch.ones(1)}, "args": code} if form == "torch, nested" else {"a": code}
        file = save(value, _use_new_zipfile_serialization=form != "torch, old format")
    with pytest.raises(CheckpointError, match="could run code, so they were not loaded") as caught:
        read_state_dict(file)
    assert "save its state dict as .safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    # The file is what it claims to be: a reader that trusts it does run the code.
    if form == "plain pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert proof.is_dir()


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth do not exist"):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, {"model": {}}, {"model": {"x": 1}}])
def test_a_file_without_tensors_is_refused(save: Save, value: Any) -> None:
    with pytest.raises(CheckpointError, match="hold no tensors; a state dict is needed"):
        read_state_dict(save(value))


@pytest.mark.parametrize(("value", "kind"), [(torch.zeros(3), "Tensor"), ([torch.zeros(3)], "list"), (3, "int")])
def test_a_file_that_holds_something_else_is_refused(save: Save, value: Any, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"hold a {kind}; a state dict is needed"):
        read_state_dict(save(value))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("data", [b"", b"not weights", b"\x80\x04.", b"PK\x03\x04 half a zip", b"\x00" * 64])
def test_a_file_that_is_none_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"weights .*{suffix}"):
        read_state_dict(file)


@pytest.mark.parametrize("form", ["zip", "old format", "safetensors"])
def test_a_truncated_file_is_refused_wherever_it_was_cut(
    save: Save, tmp_path: Path, tensors: dict[str, Tensor], form: str
) -> None:
    if form == "safetensors":
        file = tmp_path / "weights.safetensors"
        save_file(tensors, file)
    else:
        file = save(tensors, _use_new_zipfile_serialization=form == "zip")
    whole = file.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="weights") as caught:
            read_state_dict(file)
        assert "\n" not in str(caught.value)


def test_random_damage_is_an_error_for_the_user_or_no_harm(save: Save, tensors: dict[str, Tensor]) -> None:
    rng = random.Random(0)
    file = save(tensors, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(bytes(damaged))
        try:
            read_state_dict(file)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_every_tensor_of_the_model_is_loaded() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_matching(model, {**other.state_dict(), "decoder_x": torch.ones(1)}, source="x", ignore=("decoder_",))
    assert same(dict(model.state_dict()), dict(other.state_dict()))


def test_the_first_ten_names_of_each_kind_are_told() -> None:
    model = nn.ModuleDict({f"layer{i:02}": nn.Linear(1, 1, bias=False) for i in range(12)})
    state = {f"other{i}.weight": torch.ones(1, 1) for i in range(3)}
    with pytest.raises(CheckpointError) as caught:
        load_matching(model, state, source="weights.pth")
    message = str(caught.value)
    missing = ", ".join(f"layer{i:02}.weight" for i in range(10))
    assert message == (
        f"weights.pth does not fit ModuleDict; missing: {missing} and 2 more; "
        "unexpected: other0.weight, other1.weight, other2.weight"
    )


def test_tensors_of_another_shape_are_told_with_both_shapes() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"of another shape: weight \[2, 4\] instead of \[2, 3\]"):
        load_matching(model, {"weight": torch.ones(2, 4), "bias": torch.ones(2)}, source="x")
    assert torch.equal(model.weight, before)
    assert not (model.bias == 1).all()


NAME = "vit_tiny_patch16_224"


@pytest.mark.parametrize(("with_head", "classes"), [(True, 7), (False, 0)])
def test_a_fitting_model_has_the_classes_of_the_file_on_demand(
    make_model: Callable[..., nn.Module], tiny_arguments: dict[str, Any], with_head: bool, classes: int
) -> None:
    state = make_model(num_classes=7).state_dict()
    model, arguments, found = build_fitting(NAME, tiny_arguments, state, with_head=with_head)
    assert (found, getattr(model, "num_classes", None), arguments) == (classes, classes, tiny_arguments)


@pytest.mark.parametrize(
    ("name", "saved", "given", "pooled"),
    [
        (NAME, "avg", {}, "avg"),
        (NAME, "token", {}, None),
        (NAME, "avg", {"global_pool": "token"}, "token"),
        ("beit_base_patch16_224", "token", {}, "token"),
        ("beit_base_patch16_224", "avg", {}, None),
    ],
)
def test_a_fitting_model_has_its_last_norm_where_the_file_has_it(
    make_model: Callable[..., nn.Module],
    tiny_arguments: dict[str, Any],
    name: str,
    saved: str,
    given: dict[str, Any],
    pooled: str | None,
) -> None:
    state = make_model(name, **tiny_arguments, global_pool=saved).state_dict()
    _, arguments, _ = build_fitting(name, {**tiny_arguments, **given}, state, with_head=False)
    assert arguments.get("global_pool") == pooled
