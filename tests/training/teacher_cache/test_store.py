"""Rows in shards: what was written comes back, what is damaged or half written is seen."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgemim.errors import ArtifactError
from edgemim.training.teacher_cache.store import Column, RowStore, open_store, write_index

ROWS = 11
FACTS = {"teacher": "x", "size": [16, 16]}


def values(rows: range) -> dict[str, Tensor]:
    """Row r holds r in bf16, and r + 0.5 in float32."""
    numbers = torch.tensor(list(rows), dtype=torch.float32)
    return {"block_3": numbers[:, None, None].expand(-1, 3, 2).bfloat16(), "logits": numbers[:, None] + 0.5}


COLUMNS = {name: Column.of(tensor) for name, tensor in values(range(1)).items()}


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    return RowStore(tmp_path, rows=ROWS, columns=COLUMNS, shard_rows=4)


@pytest.fixture
def full(store: RowStore) -> RowStore:
    for shard in store.shards:
        store.write(shard, values(store.rows_of(shard)))
    return store


def test_shards_hold_all_rows_once_in_order(store: RowStore) -> None:
    assert [list(store.rows_of(shard)) for shard in store.shards] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert store.row_bytes == 3 * 2 * 2 + 4
    assert store.missing() == [0, 1, 2]


def test_a_shard_is_bounded_whatever_a_row_takes(tmp_path: Path) -> None:
    large = {"block_0": Column(dtype="float32", shape=(197, 1024))}
    store = RowStore(tmp_path, rows=10_000, columns=large)
    assert 100 << 20 < store.shard_rows * store.row_bytes <= 128 << 20
    assert RowStore(tmp_path, rows=3, columns=large).shard_rows == 3
    huge = {"block_0": Column(dtype="float32", shape=(1 << 20, 64))}
    assert RowStore(tmp_path, rows=3, columns=huge).shard_rows == 1


def test_rows_come_back_in_the_order_asked_for_from_any_shards(full: RowStore) -> None:
    wanted = [9, 0, 4, 4, 3, 10]
    found = full.read(wanted)
    assert found["block_3"].dtype == torch.bfloat16
    assert found["block_3"].shape == (6, 3, 2)
    assert found["block_3"][:, 2, 1].tolist() == wanted
    assert found["logits"].flatten().tolist() == [row + 0.5 for row in wanted]
    found["logits"].zero_()  # a copy
    assert full.read([9])["logits"].item() == 9.5


def test_another_process_reads_the_same_files(full: RowStore) -> None:
    full.read([0])
    sent = pickle.dumps(full)
    assert len(sent) < 2000  # the files are not in it
    assert pickle.loads(sent).read([5])["logits"].item() == 5.5


def test_a_shard_is_an_ordinary_file_of_safetensors(full: RowStore, tmp_path: Path) -> None:
    file = min(tmp_path.glob("00001-*.safetensors"))
    assert load_file(file)["logits"].flatten().tolist() == [4.5, 5.5, 6.5, 7.5]


def test_damage_is_found_and_removed(full: RowStore, tmp_path: Path) -> None:
    assert full.drop_damaged(full.shards) == []
    for shard, damage in ((0, b"\x01"), (2, b"")):
        file = min(tmp_path.glob(f"{shard:05d}-*"))
        data = file.read_bytes()
        file.write_bytes(data[:-1] + damage)
    assert full.drop_damaged([0, 1]) == [0]
    assert full.missing() == [0]
    assert full.drop_damaged(full.shards) == [2]
    assert full.missing() == [0, 2]
    full.write(0, values(full.rows_of(0)))
    assert full.missing() == [2]


def test_what_a_killed_process_left_counts_for_nothing_and_goes(store: RowStore, tmp_path: Path) -> None:
    leftover = tmp_path / ".00001-0123456789abcdef.safetensors.99.partial"
    leftover.write_bytes(b"half")
    (tmp_path / "00001-strange.safetensors").write_bytes(b"?")
    assert store.missing() == [0, 1, 2]
    store.write(1, values(store.rows_of(1)))
    assert not leftover.exists()
    assert store.missing() == [0, 2]


def test_one_shard_made_twice_is_one_shard(full: RowStore) -> None:
    full.write(1, {name: tensor * 1 for name, tensor in values(full.rows_of(1)).items()})
    other = {**values(full.rows_of(1)), "logits": torch.tensor([[4.25], [5.25], [6.25], [7.25]])}
    full.write(1, other)
    assert full.drop_damaged(full.shards) == []
    assert full.missing() == []
    assert full.read([4])["logits"].item() in (4.25, 4.5)


def test_a_shard_that_went_away_is_named(full: RowStore, tmp_path: Path) -> None:
    os.unlink(min(tmp_path.glob("00002-*")))
    with pytest.raises(ArtifactError, match=r"has lost shard 2; run the same command again with --resume"):
        full.read([8])


def test_a_folder_says_what_it_holds(store: RowStore, tmp_path: Path) -> None:
    assert open_store(tmp_path, FACTS) is None
    write_index(store, FACTS)
    found = open_store(tmp_path, FACTS)
    assert found is not None
    assert (found.rows, found.shard_rows, found.columns) == (ROWS, 4, COLUMNS)
    assert open_store(tmp_path, {**FACTS, "teacher": "y"}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {"teacher": "x", "size": [16, 16]}}'])
def test_an_index_that_cannot_be_read_is_none(store: RowStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    assert open_store(tmp_path, FACTS) is None
