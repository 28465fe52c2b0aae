"""The discrete tokenizer: its codes against the plain reference, the names of its file, and files that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemim.errors import CheckpointError
from edgemim.models.tokenizer import Tokenizer, load_tokenizer

State = dict[str, Tensor]


@pytest.fixture
def public() -> State:
    """Random weights of a small tokenizer by the names of the public module, which end in `.w` and `.b`.

    Without their mean, logits depend on the image; else the code would always be the one with the largest.
    """
    torch.manual_seed(1)
    tokenizer = Tokenizer(width=8, vocabulary=12)
    state = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    with torch.no_grad():
        state["blocks.output.conv.bias"] -= tokenizer.blocks(torch.rand(8, 3, 16, 24)).mean(dim=(0, 2, 3))
    return {re.sub("bias$", "b", re.sub("weight$", "w", name)): value for name, value in state.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def write(state: State, name: str = "tokenizer.safetensors") -> str:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return str(path)

    return write


@pytest.fixture
def colours() -> Tensor:
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(2))


def test_codes_are_those_of_the_reference(
    reference: Callable[[str], ModuleType], public: State, save: Callable[..., str], colours: Tensor
) -> None:
    codes = load_tokenizer(save(public))(colours)
    assert codes.shape == (3, 6)
    assert codes.dtype == torch.int64
    assert len(set(codes.flatten().tolist())) > 2
    state = {name: value.double() for name, value in public.items()}
    assert codes.tolist() == [reference("cae").tokenize(image, state) for image in colours.double()]


def test_both_kinds_of_names_and_both_kinds_of_files_are_read(
    public: State, save: Callable[..., str], colours: Tensor
) -> None:
    own = {re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", name)): value for name, value in public.items()}
    assert "blocks.group_2.block_1.id_path.weight" in own
    wanted = load_tokenizer(save(public))(colours)
    for file in (save(own, "own.safetensors"), save(public, "public.pth"), save({"state_dict": own}, "nested.pth")):
        assert torch.equal(load_tokenizer(file)(colours), wanted)


def test_the_full_size_has_the_names_and_shapes_of_the_public_encoder() -> None:
    with torch.device("meta"):
        state = Tokenizer().state_dict()
    assert state["blocks.input.weight"].shape == (256, 3, 7, 7)
    assert state["blocks.group_1.block_1.res_path.conv_1.weight"].shape == (64, 256, 3, 3)
    assert state["blocks.group_1.block_1.res_path.conv_4.weight"].shape == (256, 64, 1, 1)
    assert "blocks.group_1.block_1.id_path.weight" not in state
    assert state["blocks.group_4.block_1.id_path.weight"].shape == (2048, 1024, 1, 1)
    assert state["blocks.group_4.block_2.res_path.conv_1.weight"].shape == (512, 2048, 3, 3)
    assert state["blocks.output.conv.weight"].shape == (8192, 2048, 1, 1)
    # Two layers of tensors per convolution: input, output, four in each of eight blocks, three with another width.
    assert len(state) == 2 * (1 + 1 + 4 * 8 + 3)


def test_it_learns_nothing_and_no_state_holds_it(public: State, save: Callable[..., str], colours: Tensor) -> None:
    tokenizer = load_tokenizer(save(public))
    assert list(tokenizer.parameters()) == []
    assert tokenizer.state_dict() == {}
    assert len(list(tokenizer.buffers())) == len(public)
    assert not tokenizer(colours.requires_grad_()).requires_grad
    moved = nn.Sequential(tokenizer).to(torch.float64)
    assert all(buffer.dtype == torch.float64 for buffer in moved.buffers())


def test_half_precision_does_not_change_a_code(public: State, save: Callable[..., str], colours: Tensor) -> None:
    tokenizer = load_tokenizer(save(public))
    exact = tokenizer(colours)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tokenizer(colours), exact)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^weights .*none\.safetensors do not exist$"):
        load_tokenizer(str(tmp_path / "none.safetensors"))


def test_a_pickled_module_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "encoder.pkl")
    with pytest.raises(CheckpointError, match=r"could run code.*save its state dict as \.safetensors$") as caught:
        load_tokenizer(str(tmp_path / "encoder.pkl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.input.w", None, "has no tensors blocks.input.weight and blocks.output.conv.weight of four dimensions"),
        ("blocks.output.conv.w", None, "has no tensors"),
        ("blocks.input.w", torch.zeros(8), "has no tensors"),
        ("blocks.group_3.block_2.res_path.conv_2.b", None, "missing: blocks.group_3.block_2.res_path.conv_2.bias"),
        ("blocks.group_1.block_1.res_path.conv_1.w", torch.zeros(2, 8, 1, 1), "of another shape: .*conv_1.weight"),
        ("blocks.group_5.w", torch.zeros(2), "unexpected: blocks.group_5.weight"),
        ("blocks.input.w", torch.zeros(12, 3, 7, 7), "of another shape: "),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(
    public: State, save: Callable[..., str], name: str, value: Tensor | None, message: str
) -> None:
    state = {k: v for k, v in public.items() if k != name} | ({} if value is None else {name: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(save(state))
    assert "\n" not in str(caught.value)
    assert "tokenizer" in str(caught.value)
