"""Arms against a reference: statistics over seeds, as Markdown, CSV and a figure."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.report import charts, drawing
from collabseg_jax.run.console import console
from collabseg_jax.run.files import replace_text

METRICS = ("miou", "pixel_accuracy", "mean_accuracy")
LEVEL = 0.95  # of the intervals
TITLES = {"cnn": "CNN", "vit": "ViT", "ensemble": "ensemble"}

Results = dict[str, dict[int, dict[str, Any]]]  # {arm: {seed: what results.json holds}}


class Estimate(NamedTuple):
    """A mean over seeds; what needs more seeds than there are is None.

    Attributes:
      n: how many values.
      mean: of the values; needs one.
      deviation: the standard deviation (n - 1); needs two, as `low` and `high` do.
      low: the lower end of the interval.
      high: the upper end of the interval.
    """

    n: int
    mean: float | None = None
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


class Row(NamedTuple):
    """One arm and one output.

    Attributes:
      arm: its name.
      output: one of `OUTPUTS`.
      scores: {seed: score}.
      differences: {seed: score minus that of the reference}, of the seeds that both have; {} for
        the reference.
      score: the estimate of `scores`.
      difference: the estimate of `differences`.
    """

    arm: str
    output: str
    scores: dict[int, float]
    differences: dict[int, float]
    score: Estimate
    difference: Estimate


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, spread and Student's t interval (n - 1 degrees of freedom) of independent values.

    Example:
      >>> estimate([0.25, 0.75]).mean
      0.5
    """
    numbers = np.asarray(list(values), np.float64)
    n = len(numbers)
    if n < 2:
        return Estimate(n, *map(float, numbers))
    mean, deviation = float(numbers.mean()), float(numbers.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - half, mean + half)


def compare(results: Results, *, reference: str, metric: str) -> list[Row]:
    """Every arm and output, in order.

    Differences are paired: runs of one seed began with the same weights and saw the same batches,
    so that what they share does not widen the interval.

    Args:
      results: of all arms; a run whose score is null does not count.
      reference: the arm that the others are compared with.
      metric: one of `METRICS`.
    """
    rows = []
    for arm in results:
        for output in OUTPUTS:
            scores, theirs = (_scores(results[a], output, metric) for a in (arm, reference))
            paired = [] if arm == reference else [seed for seed in scores if seed in theirs]
            differences = {seed: scores[seed] - theirs[seed] for seed in paired}
            estimates = estimate(scores.values()), estimate(differences.values())
            rows.append(Row(arm, output, scores, differences, *estimates))
    return rows


def _scores(runs: dict[int, dict[str, Any]], output: str, metric: str) -> dict[int, float]:
    scores = {seed: run[output][metric] for seed, run in runs.items()}
    return {seed: score for seed, score in scores.items() if score is not None}


def write(
    workdir: str | Path,
    results: Results,
    *,
    seeds: Sequence[int],
    reference: str,
    metric: str,
    facts: Mapping[str, str],
    arms: Mapping[str, Mapping[str, Any]],
) -> None:
    """`study.md`, `study.csv` (a row an arm and output), `study_runs.csv` (a run), `study.png`.

    Args:
      workdir: of the study.
      results: see `compare`; an arm may have no results yet.
      seeds: those that are planned.
      reference: see `compare`.
      metric: see `compare`.
      facts: {what: text} for the top of the page.
      arms: {arm: {key: value}}, what each changes.

    Raises:
      RunError: a file cannot be written.
    """
    workdir = Path(workdir)
    rows = compare(results, reference=reference, metric=metric)
    head = [f"- {key}: {value}" for key, value in facts.items()]
    head += [f"- seeds: {', '.join(map(str, seeds))}", f"- score: {metric}, 0 to 1", ""]
    missing = [f"{arm}/{s}" for s in seeds for arm in results if s not in results[arm]]
    if missing:
        head += [f"**Not finished ({len(missing)}):** {', '.join(missing)}", ""]
    lines = [f"# Study {workdir.name}", "", *head, *_table(rows, results, reference)]
    if any(results.values()):
        for output in OUTPUTS:
            lines += _class_table(results, output)
    replace_text(workdir / "study.md", "\n".join([*lines, *_arms_table(arms)]) + "\n")
    replace_text(workdir / "study.csv", _summary_csv(rows, metric))
    replace_text(workdir / "study_runs.csv", _runs_csv(results))
    problem = drawing.attempt(
        workdir / "study.png",
        lambda path: charts.draw_differences(path, rows, reference=reference, metric=metric),
    )
    if problem:
        console(problem)


def _table(rows: Sequence[Row], results: Results, reference: str) -> list[str]:
    lines = [
        f"Mean ± standard deviation over seeds, and the difference to `{reference}`: the mean of "
        "the differences between runs of one seed, with the 95 % interval of Student's t in "
        "brackets. Bold where the interval excludes 0; with several arms, expect that of one in "
        "twenty by chance.",
        "",
        "| arm | n | " + " | ".join(f"{TITLES[o]} | difference" for o in OUTPUTS) + " |",
        "|---|---|" + "---|---|" * len(OUTPUTS),
    ]
    for arm in results:
        cells = []
        for row in (row for row in rows if row.arm == arm):
            cells += [_score(row.score), _difference(row.difference, row.score.n)]
        lines.append(f"| {arm} | {len(results[arm])} | " + " | ".join(cells) + " |")
    return [*lines, "", "![Differences](study.png)", ""]


def _score(of: Estimate) -> str:
    if of.mean is None:
        return "-"
    return f"{of.mean:.4f}" + ("" if of.deviation is None else f" ± {of.deviation:.4f}")


def _difference(of: Estimate, n: int) -> str:
    if of.mean is None:
        return ""
    text = f"{of.mean:+.4f}"
    if of.low is not None and of.high is not None:
        if of.low > 0 or of.high < 0:
            text = f"**{text}**"
        text += f" [{of.low:+.4f}, {of.high:+.4f}]"
    return text + ("" if of.n == n else f" (n={of.n})")


def _class_table(results: Results, output: str) -> list[str]:
    first = next(run for runs in results.values() for run in runs.values())
    lines = [f"## IoU of each class: {TITLES[output]}", ""]
    lines += ["Means over seeds.", "", f"| class | {' | '.join(results)} |"]
    lines += ["|---|" + "---|" * len(results)]
    for name in first[output]["iou"]:
        cells = []
        for runs in results.values():
            values = [run[output]["iou"][name] for run in runs.values()]
            values = [value for value in values if value is not None]
            cells.append(f"{np.mean(values):.3f}" if values else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _arms_table(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## Arms", "", "| arm | what it changes |", "|---|---|"]
    for arm, changes in arms.items():
        said = ", ".join(f"`{key}={value}`" for key, value in changes.items())
        lines.append(f"| {arm} | {said or 'nothing'} |")
    return lines


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _summary_csv(rows: Iterable[Row], metric: str) -> str:
    header = ["arm", "output", "metric", "n", "mean", "deviation"]
    header += ["pairs", "difference", "difference_deviation", "low", "high"]
    return _csv(
        header,
        [[r.arm, r.output, metric, *r.score[:3], *r.difference] for r in rows],
    )


def _runs_csv(results: Results) -> str:
    header = ["arm", "seed", "output", "step", *METRICS]
    rows = [
        [arm, seed, output, run["step"], *(run[output][key] for key in METRICS)]
        for arm, runs in results.items()
        for seed, run in runs.items()
        for output in OUTPUTS
    ]
    return _csv(header, rows)
