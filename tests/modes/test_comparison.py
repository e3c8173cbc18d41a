"""Statistics of a study against values worked out by hand, with t from printed tables."""

import csv

import pytest
from PIL import Image

from collabseg_jax.modes.study import comparison
from collabseg_jax.modes.study.comparison import Estimate, compare, estimate


def results(cnn, vit=0.5, **iou):
    def scores(miou):
        return {"miou": miou, "pixel_accuracy": 0.9, "mean_accuracy": 0.6, "iou": iou}

    return {"step": 7, "cnn": scores(cnn), "vit": scores(vit), "ensemble": scores(0.5)}


# The arm gains 0.01, 0.02 and 0.06 on seeds 0, 1, 2; seed 3 has no partner, nor has the arm's 4.
FOUND = {
    "alone": {0: results(0.1), 1: results(0.3), 2: results(0.2), 3: results(0.9)},
    "full": {0: results(0.11), 1: results(0.32), 2: results(0.26), 4: results(0.5)},
    "dml": {1: results(0.31)},
    "late": {},
}


def test_estimate_by_hand():
    # mean 7/3; squares of -4/3, -1/3, 5/3 sum to 42/9; t(0.975, 2) = 4.302653
    got = estimate([1, 2, 4])
    assert got.n == 3
    assert got.mean == pytest.approx(7 / 3)
    assert got.deviation == pytest.approx((42 / 9 / 2) ** 0.5)
    half = 4.302653 * (42 / 18) ** 0.5 / 3**0.5
    assert (got.low, got.high) == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)
    # t(0.975, 1) = 12.70620; the deviation of 0 and 2 is 2 ** 0.5, of their mean 1
    assert estimate([0, 2])[1:] == pytest.approx((1, 2**0.5, 1 - 12.7062, 1 + 12.7062), rel=1e-5)


def test_too_few_seeds_have_no_interval():
    assert estimate([3.0]) == Estimate(1, 3.0, None, None, None)
    assert estimate([]) == Estimate(0, None, None, None, None)


def test_differences_are_paired_by_seed():
    rows = {(r.arm, r.output): r for r in compare(FOUND, reference="alone", metric="miou")}
    full = rows["full", "cnn"]
    assert full.differences == pytest.approx({0: 0.01, 1: 0.02, 2: 0.06})
    assert full.score.n == 4
    assert full.score.mean == pytest.approx((0.11 + 0.32 + 0.26 + 0.5) / 4)
    # squares of -0.02, -0.01, 0.03 sum to 0.0014
    half = 4.302653 * (0.0014 / 2) ** 0.5 / 3**0.5
    assert full.difference[:3] == pytest.approx((3, 0.03, 0.0007**0.5))
    assert full.difference[3:] == pytest.approx((0.03 - half, 0.03 + half), rel=1e-6)
    assert rows["dml", "cnn"].difference[1:] == (pytest.approx(0.01), None, None, None)
    assert rows["alone", "vit"].differences == {}
    assert rows["late", "ensemble"].score.n == 0


def test_a_score_that_is_null_does_not_count():
    runs = {"alone": {0: results(0.1), 1: results(None)}, "full": {0: results(0.2), 1: results(1)}}
    alone, *_, full, _, _ = compare(runs, reference="alone", metric="miou")
    assert alone.scores == {0: 0.1}
    assert full.differences == pytest.approx({0: 0.1})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    runs = FOUND | {
        "alone": {0: results(0.10, road=0.5, sky=None), 1: results(0.11, road=0.7, sky=None)},
        "full": {0: results(0.30, road=0.6, sky=0.25), 1: results(0.32, road=0.9, sky=None)},
        "dml": {1: results(0.10, road=1.0, sky=None)},
    }
    comparison.write(
        folder,
        runs,
        seeds=(0, 1),
        reference="alone",
        metric="miou",
        facts={"commits": "abc"},
        arms={"alone": {"losses.hfd.weight": 0.0}, "full": {}},
    )
    return folder


def test_page_has_table_missing_runs_and_classes(written):
    lines = (written / "study.md").read_text().splitlines()
    assert "- commits: abc" in lines
    assert "**Not finished (3):** dml/0, late/0, late/1" in lines
    [alone] = [line for line in lines if line.startswith("| alone | 2 ")]
    assert alone.startswith("| alone | 2 | 0.1050 ± 0.0071 |  | 0.5000 ± 0.0000 |")
    [full] = [line for line in lines if line.startswith("| full | 2 ")]
    # 0.205 +- 12.7062 * 0.005
    assert full.startswith("| full | 2 | 0.3100 ± 0.0141 | **+0.2050** [+0.1415, +0.2685] |")
    assert any(line.startswith("| dml | 1 | 0.1000 | -0.0100 |") for line in lines)
    assert "| road | 0.600 | 0.750 | 1.000 | - |" in lines
    assert "| sky | - | 0.250 | - | - |" in lines
    assert "| alone | `losses.hfd.weight=0.0` |" in lines
    assert "| full | nothing |" in lines


def test_tables_for_programs(written):
    with (written / "study.csv").open() as file:
        rows = {(r["arm"], r["output"]): r for r in csv.DictReader(file)}
    assert len(rows) == 4 * 3
    full = rows["full", "cnn"]
    assert (full["n"], full["pairs"]) == ("2", "2")
    assert float(full["difference"]) == pytest.approx(0.205)
    assert float(full["low"]) == pytest.approx(0.205 - 12.7062 * 0.005, rel=1e-4)
    assert rows["dml", "cnn"]["low"] == rows["alone", "cnn"]["difference"] == ""
    with (written / "study_runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 5 * 3
    assert runs[0] | {"miou": 0.1} == {
        **{"arm": "alone", "seed": "0", "output": "cnn", "step": "7", "miou": 0.1},
        **{"pixel_accuracy": "0.9", "mean_accuracy": "0.6"},
    }


def test_figure_can_be_read(written):
    assert Image.open(written / "study.png").size[0] > 1000
