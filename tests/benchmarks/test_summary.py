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
# Below scratch seed by seed; as good as mae; better than mae in the same time, or worse, or too seldom run.
MORE = {
    "mp3": (0.390, 0.411, 0.401),
    "mixedae": (0.423, 0.439, 0.428),
    "dmae-timed": (0.426, 0.446, 0.434),
    "mp3-timed": (0.381, 0.399, 0.390),
    "hpm-timed": (0.5, 0.6),
    "scratch-long-timed": (0.441, 0.460, 0.450),
    "scratch-convnet": (0.600, 0.610, 0.620),
    "scratch-long-convnet": (0.700, 0.710, 0.720),
    "spark": (0.610, 0.620, 0.631),
    "scratch-long-convnet-timed": (0.800, 0.810, 0.820),
}
FACTS = {
    "command": "python benchmarks/methods_cifar10.py --preset cpu",
    "data": {"train_images": 10_000, "test_images": 10_000},
    "student": {"depth": 6, "embed_dim": 128, "patch_size": 8},
    "convnet": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 128], "patch_size": 1},
    "teacher_model": {"depth": 9, "embed_dim": 192, "patch_size": 8},
    "updates": 900,
    "finetune_updates": 600,
    "batch_size": 64,
}
MADE = "Made by `python benchmarks/methods_cifar10.py --preset cpu` on a processor at commit `0123456789ab`."


def result(name: str, seed: int, top1: float) -> dict[str, Any]:
    scores = {"top1": top1}
    if not name.startswith("scratch"):
        scores |= {"knn_top1": 0.3, "linear_top1": 0.35}
    return {
        "name": name,
        "method": "" if name.startswith("scratch") else name.removesuffix("-timed"),
        "seed": seed,
        **scores,
        "student_updates": 1270 if name.endswith("-timed") else 1500,
        "images_seen": 96_000,
        "threads": 1,
        "precision": "32-true",
        "commit": "0123456789abcdef" * 2,
        "device": {"cpu": "a processor", "gpu": None},
        "versions": {"torch": "2"},
        "stages": [{"folder": "pretrained", "updates": 2700}, {"folder": "finetuned", "updates": 600}],
    }


def results(*tables: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    top1 = {name: values for table in tables for name, values in table.items()}
    students = [result(name, seed, value) for name, values in top1.items() for seed, value in enumerate(values)]
    return [result("teacher", 0, 0.5), *students]


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise(results(TOP1), missing=["tinymim seed 0"], facts=FACTS)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """With convnets and rows in the time of MAE and SparK, where `mixedae` costs what MAE does."""
    return summarise(results(TOP1, MORE), missing=[], facts=FACTS, alike={"mae", "mixedae", "sit", "spark"})


def cells(table: str, row: str) -> list[str]:
    """Of the row whose first cell begins so."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    found = [line for line in lines if f"{line[0]} ".startswith(row)]
    assert len(found) == 1
    return found[0]


def names(table: str) -> list[str]:
    """In the first column."""
    return [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]


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


def test_convnets_are_held_against_convnets_alone(whole: dict[str, Any]) -> None:
    assert [row["name"] for row in whole["convnets"]] == ["scratch-convnet", "scratch-long-convnet", "spark"]
    spark = whole["convnets"][2]
    assert spark["top1_minus_scratch-convnet"]["difference"] == pytest.approx(0.0103, abs=1e-4)
    assert not any("minus_mae" in name for name in spark)
    assert not any("convnet" in row["name"] or row["name"] == "spark" for row in whole["ranked"])
    assert not any("spark" in claim["claim"] for claim in (*whole["claims"], *whole["timed_claims"]))
    claims = {claim["claim"]: claim for claim in whole["convnet_claims"]}
    assert claims["spark > scratch-convnet"]["shown"]
    assert claims["spark > scratch-long-convnet"]["refuted"]
    assert claims["spark-dmae > spark"]["seeds"] == []


def test_rows_in_the_time_of_mae_have_a_list_of_their_own(whole: dict[str, Any]) -> None:
    # Those that cost what mae does stand there as they are, if they were run.
    timed = {"mae", "mixedae", "dmae-timed", "mp3-timed", "hpm-timed", "scratch-long-timed"}
    assert {row["name"] for row in whole["timed"]} == timed
    assert not any(row["name"].endswith("-timed") for part in ("ranked", "not_ranked") for row in whole[part])
    differences = {row["name"]: row["top1_minus_mae"] for row in whole["timed"]}
    assert differences["dmae-timed"]["difference"] == pytest.approx(0.0053, abs=1e-4)
    assert differences["hpm-timed"] is None
    assert {claim["claim"]: (claim["shown"], claim["refuted"]) for claim in whole["timed_claims"]} == {
        "dmae-timed > mae": (True, False),
        "mae > scratch-long-timed": (False, True),
        "dmae-timed > scratch-long-timed": (False, True),
        "mp3-timed > mae": (False, True),
    }


def test_convnets_in_the_time_of_spark_have_a_list_of_their_own(whole: dict[str, Any]) -> None:
    assert [row["name"] for row in whole["timed_convnets"]] == ["scratch-long-convnet-timed", "spark"]
    longer = whole["timed_convnets"][0]
    assert longer["top1_minus_spark"]["difference"] == pytest.approx(0.1897, abs=1e-4)
    claims = {claim["claim"]: claim for claim in whole["timed_convnet_claims"]}
    # Of those that cost what SparK does, the runs with as many updates are those in the same time.
    assert claims["spark > scratch-long-convnet-timed"]["refuted"]
    assert claims["spark-dmae-timed > spark"]["seeds"] == []


def test_nothing_is_in_a_list_of_which_nothing_was_run(summary: dict[str, Any]) -> None:
    parts = ("timed", "convnets", "timed_convnets", "timed_claims", "convnet_claims", "timed_convnet_claims")
    assert [summary[part] for part in parts] == [[]] * len(parts)
    for shown in (
        method_tables.timed(summary),
        method_tables.timed(summary, "timed_convnets", "spark"),
        method_tables.convnets(summary),
        method_tables.claims(summary, "timed_claims"),
        method_tables.claims(summary, "convnet_claims"),
    ):
        assert shown == "Not yet measured."


def test_the_teacher_is_no_row(summary: dict[str, Any]) -> None:
    assert summary["teacher"] == {
        "top1": 0.5,
        "linear_top1": 0.35,
        "knn_top1": 0.3,
        "updates": {"pretrained": 2700, "finetuned": 600},
    }


def test_the_ranking_is_shown_in_percent_best_first(summary: dict[str, Any]) -> None:
    table = method_tables.ranking(summary)
    assert names(table) == ["dmae", "mae", "scratch"]
    # Differences to scratch 0.021, 0.020, 0.019: mean 0.02, standard deviation 0.001, half width 0.00248.
    assert cells(table, "`mae`") == ["`mae`", "3", "30.0 ± 0.0", "35.0 ± 0.0", "43.0 ± 2.4", "+2.0 ± 0.2", "-"]
    assert cells(table, "`scratch`")[2:4] == ["-", "-"]
    assert "Not done yet: `tinymim` (seed 0)." in table
    assert MADE in table


def test_what_is_not_done_is_said_row_by_row(summary: dict[str, Any]) -> None:
    labels = ["sit seed 1", "sit seed 2", "gmml seed 0"]
    assert "Not done yet: `sit` (seed 1, 2), `gmml` (seed 0)." in method_tables.ranking({**summary, "missing": labels})
    assert "Not done" not in method_tables.ranking({**summary, "missing": []})
    assert method_tables.single_runs({**summary, "not_ranked": []}) == "Not yet measured."


def test_rows_in_time_are_shown_with_their_updates(whole: dict[str, Any]) -> None:
    table = method_tables.timed(whole)
    assert names(table) == ["hpm-timed", "scratch-long-timed", "dmae-timed", "mae", "mixedae", "mp3-timed"]
    # Of 1,270 updates in all, 600 are fine-tuning; differences 0.005, 0.006, 0.005: half width 0.0014.
    assert cells(table, "`dmae-timed`")[1:3] + cells(table, "`dmae-timed`")[-1:] == ["3", "670", "+0.5 ± 0.1"]
    assert cells(table, "`mixedae`")[2] == "900"
    assert cells(table, "`hpm-timed`")[-1] == "-"
    assert "the 900 of `mae`" in table
    assert MADE in table
    convnets = method_tables.timed(whole, "timed_convnets", "spark")
    assert names(convnets) == ["scratch-long-convnet-timed", "spark"]
    assert cells(convnets, "`scratch-long-convnet-timed`")[2::4] == ["670", "+19.0 ± 0.1"]
    assert "the 900 of `spark`" in convnets


def test_convnets_are_shown_with_what_they_are(whole: dict[str, Any]) -> None:
    table = method_tables.convnets(whole)
    assert names(table) == ["scratch-long-convnet", "spark", "scratch-convnet"]
    # Differences 0.010, 0.010, 0.011: half width 0.0014.
    assert cells(table, "`spark`")[-1] == "+1.0 ± 0.1"
    assert "ConvNeXt V2, 1, 1, 2, 1 blocks, 16, 32, 64, 128 wide, a stem of 1 pixel; 900 updates" in table
    assert "ViT" not in table


def test_a_claim_says_whether_it_was_shown(summary: dict[str, Any]) -> None:
    table = method_tables.claims(summary)
    assert cells(table, "dmae > mae")[-1] == "shown"
    assert cells(table, "dmae > feature")[1:] == ["-", "0", "not shown"]
    assert "one teacher" in table


def test_what_showed_nothing_is_what_was_tried_and_not_shown(whole: dict[str, Any]) -> None:
    table = method_tables.nothing_shown(whole)
    assert cells(table, "mp3 > scratch") == ["mp3 > scratch", "updates", "-0.9 ± 0.1", "refuted"]
    assert cells(table, "mp3-timed > mae")[1::2] == ["seconds", "refuted"]
    assert cells(table, "spark > scratch-long-convnet ")[1::2] == ["updates, convnets", "refuted"]
    assert cells(table, "spark > scratch-long-convnet-timed")[1::2] == ["seconds, convnets", "refuted"]
    assert cells(table, "mixedae > mae")[3] == "not shown"
    # Shown, or never tried.
    for claim in ("dmae > mae", "dmae > feature", "spark-dmae > spark", "hpm-timed"):
        assert claim not in table
    verdicts = [line.split(" | ")[-1] for line in table.splitlines() if " > " in line]
    assert verdicts == sorted(verdicts, key=lambda verdict: verdict != "refuted |")
    assert MADE in table


def test_single_runs_have_no_interval(summary: dict[str, Any]) -> None:
    assert cells(method_tables.single_runs(summary), "`simmim`") == ["`simmim`", "1", "30.0", "35.0", "99.0"]


def test_the_short_table_has_the_ranked_rows_only(summary: dict[str, Any]) -> None:
    table = method_tables.short(summary)
    assert cells(table, "`dmae`")[1:] == ["44.0 ± 2.6", "+3.0 ± 0.1"]
    assert "simmim" not in table
    assert "best" not in table


def test_the_short_table_stays_short() -> None:
    many = {f"method-{n}": (0.3 + n / 100, 0.3, 0.3) for n in range(8)}
    table = method_tables.short(summarise(results(TOP1, many), missing=[], facts=FACTS))
    assert names(table) == ["dmae", "mae", "scratch", *(f"method-{n}" for n in (7, 6, 5, 4))]
    assert "The baselines and the best 5 of 9 methods." in table


def test_the_picture_has_room_for_every_row(summary: dict[str, Any], whole: dict[str, Any], tmp_path: Path) -> None:
    from _parts.picture import draw_top1

    draw_top1(whole, tmp_path / "whole.png")
    draw_top1(summary, tmp_path / "all.png")
    draw_top1(summary | {"not_ranked": []}, tmp_path / "ranked.png")
    draw_top1(whole | {"ranked": [], "timed": [], "not_ranked": [], "timed_convnets": []}, tmp_path / "convnets.png")
    sizes = []
    for name in ("convnets", "ranked", "all", "whole"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            sizes.append(picture.size)
            assert len(picture.convert("RGB").getcolors(1 << 16) or []) > 2
    assert len({width for width, _ in sizes}) == 1
    heights = [height for _, height in sizes]
    assert heights == sorted(heights)
    assert heights[1] < heights[2] < heights[3]


def costs(rows: dict[str, Any]) -> dict[str, Any]:
    origin = {"commit": "0" * 40, "device": {"cpu": "a processor", "gpu": None}, "command": "python x.py", "threads": 1}
    return {"rows": rows, "batch_size": 64, "rounds": 7, **origin}


MAE_COST = {"median_s": 0.1, "ratio": 1.0, "ratio_range": [1.0, 1.0], "student": "vit"}
SLOW = {"median_s": 0.2, "ratio": 2.0, "ratio_range": [1.9, 2.1], "student": "vit"}


def test_costs_are_shown_cheapest_first() -> None:
    table = method_tables.cost_of_an_update(costs({"feature": SLOW | {"peak_mib": 700.4}, "mae": MAE_COST}))
    assert table.index("| mae |") < table.index("| feature |")
    assert cells(table, "feature") == ["feature", "200", "2.00 (1.90 to 2.10)", "700"]
    assert "convnets" not in table
    assert "looks" not in table


def test_convnets_come_last_and_looks_at_all_images_are_said() -> None:
    looks = SLOW | {"alone_s": 0.08, "looks": 9, "look_s": 12.0}
    quick = SLOW | {"median_s": 0.05, "ratio": 0.5, "ratio_range": [0.4, 0.6], "student": "convnet"}
    table = method_tables.cost_of_an_update(costs({"spark": quick, "amt": looks, "mae": MAE_COST}))
    assert table.index("| mae |") < table.index("| amt |") < table.index("| spark |")
    assert "`amt` takes 80 ms without its 9 looks at all images in a run, each of 12.0 s" in table
    assert "The last rows are those of convnets." in table


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
