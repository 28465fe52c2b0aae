"""What holds for every data source."""

import subprocess
import sys

import pytest

from edgemim.data.sources import SOURCES
from edgemim.errors import DataError

SPECS = [
    "digits",
    "owner/name",
    "x.parquet",
    "shard-{00..09}.tar",
    "missing",
    "../missing",
    "",
    ":",
    "a:b",
]


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_says_what_it_is_and_needs(name):
    description = SOURCES.describe(name)
    assert description.summary
    assert "edgemim[train]" in description.sections["needs"]


@pytest.mark.parametrize("spec", SPECS)
def test_at_most_one_source_matches_a_spec(spec):
    assert sum(SOURCES.get(name)().matches(spec) for name in SOURCES) <= 1


def test_exactly_one_source_matches_a_folder(fill, tmp_path):
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 1)
    (tmp_path / "b" / "x.tar").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "a", tmp_path / "b"):
        assert sum(SOURCES.get(name)().matches(str(folder)) for name in SOURCES) == 1


@pytest.mark.parametrize("name", [n for n in SOURCES.names() if n != "hub"])
def test_a_missing_spec_is_one_line(name):
    with pytest.raises(DataError) as caught:
        SOURCES.get(name)().splits("missing/thing")
    assert "missing/thing" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_images_never_imports_torch(tmp_path):
    code = """
import sys
import edgemim.data
assert "datasets" not in sys.modules
from edgemim.data.open import open_splits
from edgemim.data.cache import decode_cached
assert "datasets" not in sys.modules
decode_cached(open_splits("digits").test)
loaded = {"torch", "lightning", "timm", "onnx"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
