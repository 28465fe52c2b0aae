"""Draw every masking on a few photographs, for the documents.

    python scripts/maskings_picture.py [--images DATA --pick 0 18 47] [--out docs/maskings.png]

Without --images they are squares of the two photographs that scikit-learn ships (CC BY 2.0, danielbuechele and
vultilion on Flickr); DATA is a folder, parquet files or anything else that `--data` of edgemim takes. One row for each
masking with its default settings, on the 14 x 14 patches of an image of 224 pixels; each column is the same image.
What guides the last rows, attention and difficulty, is made up: no model is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from edgemim.data.open import open_images
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking.attention import AttentionMasking
from edgemim.masking.block import BlockMasking
from edgemim.masking.cells import CellMasking
from edgemim.masking.color import ColorMasking
from edgemim.masking.difficulty import DifficultyMasking
from edgemim.masking.mixture import MixtureMasking
from edgemim.masking.random import RandomMasking
from edgemim.masking.throwing import ThrowingMasking
from edgemim.models.mask_plan import DROPPED, VISIBLE
from edgemim.preprocess import Pixels, Preprocess

GRID, PATCH, SHOWN_PATCH = (14, 14), (16, 16), 8
GAP, LABEL_WIDTH, DPI = 4, 168, 100
HIDDEN, THROWN = (186, 192, 204), (92, 98, 112)
# Where the squares of a photograph begin, as a share of the room there is.
SQUARES = (0.0, 0.5, 1.0)

ROWS: list[tuple[str, str, MaskingStrategy]] = [
    ("random", "single patches", RandomMasking()),
    ("cells", "cells of 32 x 32 pixels", CellMasking()),
    ("block", "rectangles", BlockMasking()),
    ("color, green", "noise of middle frequencies", ColorMasking()),
    ("color, red", "noise of low frequencies", ColorMasking(colour="red")),
    ("color, blue", "noise of high frequencies", ColorMasking(colour="blue")),
    ("color, purple", "low and high frequencies", ColorMasking(colour="purple")),
    ("mixture", "places dealt to 4 images", MixtureMasking()),
    ("attention", "salient patches are kept;\nhere with a made-up attention\nto the centre", AttentionMasking()),
    ("difficulty", "half of them the hardest, here\nthe centre, at the end of a run", DifficultyMasking()),
    ("throwing", "what is looked at (the centre)\nis hidden; dark: thrown away", ThrowingMasking()),
]


def main() -> None:
    """Read the images, draw the masks, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="a folder of images, or another data set")
    parser.add_argument("--pick", type=int, nargs="+", default=[0], help="which of them")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "maskings.png")
    chosen = parser.parse_args()
    contract = Preprocess(size=(GRID[0] * SHOWN_PATCH, GRID[1] * SHOWN_PATCH), crop_ratio=1.0)
    images = np.stack([contract.pixels(photo) for photo in photographs(chosen.images, chosen.pick)])
    rows = [("image", "", images)]
    for name, what, masking in ROWS:
        shown, share = mask(images, masking, chosen.seed)
        rows.append((name, f"{what}\n{share:.0%} hidden", shown))
    draw(rows, chosen.out)


def photographs(source: str | None, pick: list[int]) -> Iterator[Image.Image]:
    """Those that were asked for, or squares of scikit-learn's two."""
    if source is not None:
        found = open_images(source)
        yield from (found.image(i) for i in pick)
        return
    for pixels in load_sample_images().images:
        photo = Image.fromarray(pixels)
        side = photo.height - photo.height % 2
        for left in SQUARES:
            x = round(left * (photo.width - side))
            yield photo.crop((x, 0, x + side, side))


def mask(images: Pixels, masking: MaskingStrategy, seed: int) -> tuple[Pixels, float]:
    """The images [N, H, W, 3] with hidden patches in grey, thrown ones darker; the share of patches not seen."""
    attention = centre_attention().expand(len(images), -1)
    context = MaskContext(patch_size=PATCH, epoch_share=1.0, signals=dict.fromkeys(masking.needs, attention))
    plan = masking.sample(len(images), GRID, torch.Generator().manual_seed(seed), context)
    role = plan.role.view(-1, *GRID).repeat_interleave(SHOWN_PATCH, 1).repeat_interleave(SHOWN_PATCH, 2)
    shown = np.where((role != VISIBLE).unsqueeze(-1).numpy(), np.asarray(HIDDEN, np.uint8), images)
    shown = np.where((role == DROPPED).unsqueeze(-1).numpy(), np.asarray(THROWN, np.uint8), shown)
    return shown, float((role != VISIBLE).float().mean())


def centre_attention() -> torch.Tensor:
    """float32 [1, L]: a Gaussian around the middle of the grid."""
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in GRID)
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * (GRID[0] / 5) ** 2)).view(1, -1)


def draw(rows: list[tuple[str, str, Pixels]], file: Path) -> None:
    """One row of tiles for each entry, its name and description at the left, every pixel of an image one pixel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tile = rows[0][2].shape[1]
    width = LABEL_WIDTH + len(rows[0][2]) * (tile + GAP)
    height = len(rows) * (tile + GAP) + GAP
    figure = pyplot.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for place, (name, what, images) in enumerate(rows):
        bottom = height - (place + 1) * (tile + GAP)
        middle = (bottom + tile / 2) / height
        lift = (7 * (what.count("\n") + 1) + 3) / height if what else 0
        figure.text(8 / width, middle + lift, name, fontsize=10, weight="bold", va="center")
        figure.text(8 / width, middle - 8 / height, what, fontsize=7.5, color="#444444", va="center", linespacing=1.35)
        for column, image in enumerate(images):
            left = LABEL_WIDTH + column * (tile + GAP)
            axes = figure.add_axes((left / width, bottom / height, tile / width, tile / height))
            axes.imshow(image, interpolation="none")
            axes.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, metadata={"Software": ""})
    pyplot.close(figure)
    shrink(file)


def shrink(file: Path, largest: int = 400_000) -> None:
    """Write a PNG again with as many colours, a power of two, as keep it under `largest` bytes."""
    with Image.open(file) as opened:
        full = opened.convert("RGB")
    for colours in (2**bits for bits in range(8, 3, -1)):
        full.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= largest:
            return


if __name__ == "__main__":
    main()
