"""Images made for the tests, and caches that no test shares."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(autouse=True)
def private_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every cache of edgemim and of datasets in a folder of this test."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.delenv("HF_HOME", raising=False)
    return folder


@pytest.fixture
def encode() -> Encode:
    """Encoded bytes of an image full of seeded noise."""

    def make(seed: int = 0, size: tuple[int, int] = (8, 6), mode: str = "RGB", kind: str = "png") -> bytes:
        rng = np.random.default_rng(seed)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
        else:
            image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
        stream = io.BytesIO()
        image.save(stream, kind)
        return stream.getvalue()

    return make


@pytest.fixture
def fill(encode: Encode) -> Callable[..., list[Path]]:
    """Write `count` different PNG files into a folder, which is made."""

    def write(folder: Path, count: int, seed: int = 0) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:03}.png" for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(encode(seed + i))
        return paths

    return write
