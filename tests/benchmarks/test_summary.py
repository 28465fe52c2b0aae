"""From results of runs to the summary, the tables and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import method_tables
import pytest
from _parts.summary import summarise
from PIL import Image

# Seed by seed 0.02 better than scratch, and then 0.01 better than mae.
TOP1 = {
    "scratch": (0.400, 0.420, 0.410),
    "mae": (0.421, 0.440, 0.429),
    "dmae": (0.430, 0.451, 0.440),
    "simmim": (0.990,),
}
FACTS = {
    "command": "python benchmarks/methods_cifar10.py --preset cpu",
    "data": {"train_images": 10_000, "test_images": 10_000},
    "student": {"depth": 6, "embed_dim": 128, "patch_size": 8},
    "teacher_model": {"depth": 9, "embed_dim": 192, "patch_size": 8},
    "updates": 900,
    "finetune_updates": 600,
    "batch_size": 64,
}


def result(name: str, seed: int, top1: float) -> dict[str, Any]:
    scores = {"top1": top1} if name == "scratch" else {"top1": top1, "knn_top1": 0.3, "linear_top1": 0.35}
    return {
        "name": name,
        "method": "" if name == "scratch" else name,
        "seed": seed,
        **scores,
        "student_updates": 1500,
        "images_seen": 96_000,
        "threads": 1,
        "precision": "32-true",
        "commit": "0123456789abcdef" * 2,
        "device": {"cpu": "a processor", "gpu": None},
        "versions": {"torch": "2"},
        "stages": [{"folder": "pretrained", "updates": 2700}, {"folder": "finetuned", "updates": 600}],
    }


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    students = [result(name, seed, value) for name, values in TOP1.items() for seed, value in enumerate(values)]
    return summarise([result("teacher", 0, 0.5), *students], missing=["tinymim seed 0"], facts=FACTS)


def cells(table: str, row: str) -> list[str]:
    """Of the row whose first cell begins so."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    found = [line for line in lines if line[0].startswith(row)]
    assert len(found) == 1
    return found[0]


def test_a_row_with_one_seed_is_never_ranked(summary: dict[str, Any]) -> None:
    assert [row["name"] for row in summary["ranked"]] == ["scratch", "mae", "dmae"]
    assert [row["name"] for row in summary["not_ranked"]] == ["simmim"]
    assert summary["not_ranked"][0]["top1_minus_scratch"] is None
    assert not any("simmim" in claim["claim"] for claim in summary["claims"])


def test_the_expected_order_is_claimed_from_paired_differences(summary: dict[str, Any]) -> None:
    claims = {claim["claim"]: claim for claim in summary["claims"]}
    assert claims["dmae > mae"]["shown"]
    assert claims["mae > scratch"]["difference"] == pytest.approx(0.02)
    # Nothing was run of these.
    assert not claims["dmae > feature"]["shown"]
    assert claims["mae > scratch-long"]["difference"] is None


def test_the_teacher_is_no_row(summary: dict[str, Any]) -> None:
    assert summary["teacher"] == {
        "top1": 0.5,
        "linear_top1": 0.35,
        "knn_top1": 0.3,
        "updates": {"pretrained": 2700, "finetuned": 600},
    }


def test_the_ranking_is_shown_in_percent_best_first(summary: dict[str, Any]) -> None:
    table = method_tables.ranking(summary)
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == ["dmae", "mae", "scratch"]
    # Differences to scratch 0.021, 0.020, 0.019: mean 0.02, standard deviation 0.001, half width 0.00248.
    assert cells(table, "`mae`") == ["`mae`", "3", "30.0 ± 0.0", "35.0 ± 0.0", "43.0 ± 2.4", "+2.0 ± 0.2", "-"]
    assert cells(table, "`scratch`")[2:4] == ["-", "-"]
    assert "Not done yet: tinymim seed 0." in table
    assert (
        "Made by `python benchmarks/methods_cifar10.py --preset cpu` on a processor at commit `0123456789ab`." in table
    )


def test_a_claim_says_whether_it_was_shown(summary: dict[str, Any]) -> None:
    table = method_tables.claims(summary)
    assert cells(table, "dmae > mae")[-1] == "shown"
    assert cells(table, "dmae > feature")[1:] == ["-", "0", "not shown"]
    assert "one teacher" in table


def test_single_runs_have_no_interval(summary: dict[str, Any]) -> None:
    assert cells(method_tables.single_runs(summary), "`simmim`") == ["`simmim`", "1", "30.0", "35.0", "99.0"]


def test_the_short_table_has_the_ranked_rows_only(summary: dict[str, Any]) -> None:
    table = method_tables.short(summary)
    assert cells(table, "`dmae`")[1:] == ["44.0 ± 2.6", "+3.0 ± 0.1"]
    assert "simmim" not in table


def test_the_picture_has_room_for_every_row(summary: dict[str, Any], tmp_path: Path) -> None:
    from _parts.picture import draw_top1

    draw_top1(summary, tmp_path / "all.png")
    draw_top1(summary | {"not_ranked": []}, tmp_path / "ranked.png")
    with Image.open(tmp_path / "all.png") as every, Image.open(tmp_path / "ranked.png") as ranked:
        assert every.width == ranked.width
        assert every.height > ranked.height
        assert len(every.convert("RGB").getcolors(1 << 16) or []) > 2


def test_costs_are_shown_cheapest_first() -> None:
    origin = {"commit": "0" * 40, "device": {"cpu": "a processor", "gpu": None}, "command": "python x.py", "threads": 1}
    slow = {"median_s": 0.2, "ratio": 2.0, "ratio_range": [1.9, 2.1]}
    rows = {"feature": slow | {"peak_mib": 700.4}, "mae": {"median_s": 0.1, "ratio": 1.0, "ratio_range": [1.0, 1.0]}}
    table = method_tables.cost_of_an_update({"rows": rows, "batch_size": 64, "rounds": 7, **origin})
    assert table.index("| mae |") < table.index("| feature |")
    assert cells(table, "feature") == ["feature", "200", "2.00 (1.90 to 2.10)", "700"]


@pytest.mark.parametrize(("target", "met", "shown"), [(0.6, True, "below 0.6: met"), (0.3, False, "below 0.3: missed")])
def test_a_target_is_met_or_missed(target: float, met: bool, shown: bool) -> None:
    steps = {"dmae": {"median_s": 1.0}, "whole teacher": {"median_s": 2.5}}
    row = {"teacher": "vit_large_patch16_224", "student": "vit_base_patch16_224", "decoder": "512 x 8", "steps": steps}
    row |= {"ratio": 0.4, "ratio_range": [0.39, 0.41], "target": target, "met": met}
    kept = {"rows": {"a": row}, "image_size": 224, "batch_size": 4, "threads": 2, "rounds": 5, "precision": "fp32"}
    kept |= {"commit": "0" * 40, "device": {"cpu": "a processor", "gpu": None}, "command": "python x.py"}
    assert cells(method_tables.cost_of_distillation(kept), "ViT-L to ViT-B")[1:] == [
        "512 x 8",
        "1.00",
        "2.50",
        "0.40 (0.39 to 0.41)",
        shown,
    ]
