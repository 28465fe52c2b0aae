"""What is remembered of each image: read, written, saved, and refused where it belongs to other images."""

from __future__ import annotations

import copy

import pytest
import torch

from edgemim.errors import TrainingError
from edgemim.methods._memory import PatchMemory

OURS, OTHERS = "a1" * 32, "b2" * 32


def memory(images: int = 5, fingerprint: str = OURS) -> PatchMemory:
    made = PatchMemory(4)
    made.reserve(images, fingerprint)
    return made


def test_before_anything_is_written_all_weigh_alike() -> None:
    rows = memory().read(torch.tensor([4, 0]))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, torch.ones(2, 4))


def test_what_is_written_is_read_and_nothing_else_changes() -> None:
    made = memory()
    rows = torch.tensor([[0.0, 0.25, 0.5, 1.0], [1.0, 0.0, 0.0, 0.125]])
    made.write(torch.tensor([3, 1]), rows)
    assert torch.equal(made.read(torch.tensor([1, 3, 1])), rows[[1, 0, 1]])
    assert torch.equal(made.read(torch.tensor([0, 2, 4])), torch.ones(3, 4))


def test_a_number_is_kept_to_eleven_bits() -> None:
    made = memory()
    rows = torch.rand(5, 4)
    made.write(torch.arange(5), rows)
    # Half precision rounds to 11 bits; below 6e-5 in steps of 6e-8.
    torch.testing.assert_close(made.read(torch.arange(5)), rows, rtol=2**-11, atol=3e-8)
    assert made.rows.element_size() == 2


def test_it_is_part_of_a_state_and_comes_back() -> None:
    made = memory()
    made.write(torch.arange(5), torch.rand(5, 4))
    assert set(made.state_dict()) == {"rows", "fingerprint"}
    other = memory()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.rows, made.rows)


def test_a_copy_refuses_for_itself() -> None:
    made = copy.deepcopy(memory())
    made.reserve(5, OTHERS)
    made.load_state_dict(memory(fingerprint=OTHERS).state_dict())
    with pytest.raises(TrainingError):
        made.load_state_dict(memory().state_dict())


@pytest.mark.parametrize("images", [5, 6])
def test_what_belongs_to_other_images_is_refused_in_one_line(images: int) -> None:
    with pytest.raises(TrainingError) as caught:
        memory().load_state_dict(memory(images, OTHERS).state_dict())
    assert str(caught.value) == (
        "what is remembered belongs to other images or another transform than those of this run (fingerprint "
        "b2b2b2b2b2b2, these have a1a1a1a1a1a1); resume with the data and the preprocessing that it was started with, "
        "or start anew with --overwrite"
    )


def test_where_nothing_is_remembered_there_is_nothing_to_refuse() -> None:
    nothing = PatchMemory(4)
    memory().refuse_others({"fingerprint": nothing.fingerprint})
    nothing.refuse_others(memory().state_dict())
    with pytest.raises(TrainingError, match="fingerprint b2b2b2b2b2b2"):
        memory().refuse_others({"kept.fingerprint": memory(fingerprint=OTHERS).fingerprint}, prefix="kept.")


def test_a_state_without_a_memory_can_be_taken_up_in_part() -> None:
    found = memory().load_state_dict({}, strict=False)
    assert sorted(found.missing_keys) == ["fingerprint", "rows"]
