"""Arms against a reference: statistics over seeds, as Markdown, CSV and a figure."""

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.report import charts
from collabseg_jax.run.files import replace_text, writing

METRICS = ("miou", "pixel_accuracy", "mean_accuracy")
LEVEL = 0.95  # of the intervals
TITLES = {"cnn": "CNN", "vit": "ViT", "ensemble": "ensemble"}


class Estimate(NamedTuple):
    """A mean over seeds; what too few seeds cannot give is None.

    Attributes:
      n: how many values; mean: from one on.
      deviation: the standard deviation (n - 1); low, high: the interval; all from two on.
    """

    n: int
    mean: float | None = None
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


class Row(NamedTuple):
    """One arm and one output.

    Attributes:
      scores: {seed: score}; differences: {seed: score minus that of the reference}, of the seeds
        that both have.
      score, difference: their estimates; the reference has no difference.
    """

    arm: str
    output: str
    scores: dict[int, float]
    differences: dict[int, float]
    score: Estimate
    difference: Estimate


def estimate(values) -> Estimate:
    """Mean, spread and Student's t interval (n - 1 degrees of freedom) of independent values."""
    values = np.asarray(list(values), np.float64)
    n = len(values)
    if n < 2:
        return Estimate(n, *map(float, values))
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - half, mean + half)


def compare(found: dict, *, reference: str, metric: str) -> list[Row]:
    """Every arm and output, in order.

    Differences are paired: runs of one seed began with the same weights and saw the same batches,
    so that what they share does not widen the interval.

    Args:
      found: {arm: {seed: results}}, results as in `results.json`.
      metric: one of `METRICS`; a run whose score is null does not count.
    """
    rows = []
    for arm, by_seed in found.items():
        for output in OUTPUTS:
            scores, theirs = (
                {s: r[output][metric] for s, r in runs.items() if r[output][metric] is not None}
                for runs in (by_seed, found[reference])
            )
            differences = {s: scores[s] - theirs[s] for s in scores if s in theirs}
            if arm == reference:
                differences = {}
            estimates = estimate(scores.values()), estimate(differences.values())
            rows.append(Row(arm, output, scores, differences, *estimates))
    return rows


def write(workdir, found: dict, *, seeds, reference: str, metric: str, facts: dict, arms: dict):
    """`study.md`, `study.csv` (a row an arm and output), `study_runs.csv` (a run), `study.png`.

    Args:
      found: see `compare`; an arm may have no results yet.
      seeds: those that are planned.
      facts: {what: text} for the top of the page; arms: {arm: {key: value}}, what each changes.
    Raises:
      RunError: a file cannot be written.
    """
    workdir = Path(workdir)
    rows = compare(found, reference=reference, metric=metric)
    text = _page(workdir.name, rows, found, seeds, reference, metric, facts, arms)
    replace_text(workdir / "study.md", text)
    replace_text(workdir / "study.csv", _summary_csv(rows, metric))
    replace_text(workdir / "study_runs.csv", _runs_csv(found))
    with writing(workdir / "study.png") as path:
        charts.draw_differences(path, rows, reference=reference, metric=metric)


def _page(name, rows, found, seeds, reference, metric, facts, arms) -> str:
    lines = [f"# Study {name}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += [f"- seeds: {', '.join(map(str, seeds))}", f"- score: {metric}, 0 to 1", ""]
    missing = [f"{arm}/{s}" for s in seeds for arm in found if s not in found[arm]]
    if missing:
        lines += [f"**Not finished ({len(missing)}):** {', '.join(missing)}", ""]
    lines += [
        f"Mean ± standard deviation over seeds, and the difference to `{reference}`: the mean of "
        "the differences between runs of one seed, with the 95 % interval of Student's t in "
        "brackets. Bold where the interval excludes 0; with several arms, expect that of one in "
        "twenty by chance.",
        "",
        "| arm | n | " + " | ".join(f"{TITLES[o]} | difference" for o in OUTPUTS) + " |",
        "|---|---|" + "---|---|" * len(OUTPUTS),
    ]
    for arm in found:
        cells = []
        for row in (row for row in rows if row.arm == arm):
            cells += [_score(row.score), _difference(row.difference, row.score.n)]
        lines.append(f"| {arm} | {len(found[arm])} | " + " | ".join(cells) + " |")
    lines += ["", "![Differences](study.png)", ""]
    if any(found.values()):
        for output in OUTPUTS:
            lines += _class_table(found, output)
    lines += ["## Arms", "", "| arm | what it changes |", "|---|---|"]
    for arm, changes in arms.items():
        said = ", ".join(f"`{key}={value}`" for key, value in changes.items())
        lines.append(f"| {arm} | {said or 'nothing'} |")
    return "\n".join(lines) + "\n"


def _score(of: Estimate) -> str:
    if not of.n:
        return "-"
    return f"{of.mean:.4f}" + ("" if of.deviation is None else f" ± {of.deviation:.4f}")


def _difference(of: Estimate, n: int) -> str:
    if not of.n:
        return ""
    text = f"{of.mean:+.4f}"
    if of.low is not None:
        if of.low > 0 or of.high < 0:
            text = f"**{text}**"
        text += f" [{of.low:+.4f}, {of.high:+.4f}]"
    return text + ("" if of.n == n else f" (n={of.n})")


def _class_table(found, output) -> list[str]:
    first = next(results for runs in found.values() for results in runs.values())
    lines = [f"## IoU of each class: {TITLES[output]}", ""]
    lines += ["Means over seeds.", "", f"| class | {' | '.join(found)} |"]
    lines += ["|---|" + "---|" * len(found)]
    for name in first[output]["iou"]:
        cells = []
        for runs in found.values():
            values = [results[output]["iou"][name] for results in runs.values()]
            values = [value for value in values if value is not None]
            cells.append(f"{np.mean(values):.3f}" if values else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _csv(header, rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _summary_csv(rows: list[Row], metric: str) -> str:
    header = ["arm", "output", "metric", "n", "mean", "deviation"]
    header += ["pairs", "difference", "difference_deviation", "low", "high"]
    return _csv(
        header,
        [[r.arm, r.output, metric, *r.score[:3], *r.difference] for r in rows],
    )


def _runs_csv(found: dict) -> str:
    header = ["arm", "seed", "output", "step", *METRICS]
    rows = [
        [arm, seed, output, results["step"], *(results[output][key] for key in METRICS)]
        for arm, runs in found.items()
        for seed, results in runs.items()
        for output in OUTPUTS
    ]
    return _csv(header, rows)
