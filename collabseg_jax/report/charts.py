"""Charts of numbers: what arms of a study differ by, and how teaching went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from collabseg_jax.collab.pair import STUDENTS

# Blue and orange stay apart for all kinds of colour blindness; `pictures.TEACHING` has them too.
COLORS = {"cnn": "#0b5fa5", "vit": "#d1570a"}
NAMES = {"cnn": "CNN student", "vit": "ViT student"}
GREY = "#555555"
# Okabe and Ito's eight, for lines that are many.
MANY = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
# Of `diagnostics`: what a panel shows, and the key of it.
TEACHING_PANELS = (
    ("share of pixels taught by the peer", "taught"),
    ("share of regions taught by the peer", "regions_taught"),
    ("of taught pixels: teacher right, learner wrong", "taught_right_wrong"),
    ("of taught pixels: teacher right", "teacher_correct"),
    ("projected features, effective rank (1: collapsed)", "common_rank"),
)


def draw_differences(path: Path, rows: Sequence[Any], *, reference: str, metric: str) -> None:
    """A panel for each student: the difference of each arm to the reference.

    Small rings are the seeds, the dot is their mean, the bar the interval; an arm that has no seed
    in common with the reference has none of them.

    Args:
      path: of the PNG.
      rows: of `comparison.compare`.
      reference: the arm that the others are compared with.
      metric: its name.
    """
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if arm != reference]
    figure = Figure(figsize=(10.5, 1.7 + 0.42 * max(2, len(arms))), layout="constrained")
    axes = figure.subplots(1, len(STUDENTS), sharex=True, sharey=True)
    for axis, student in zip(axes, STUDENTS, strict=True):
        for row in (row for row in rows if row.output == student):
            if row.arm == reference:
                score = row.score
                title = f"{NAMES[student]}; {reference}: "
                title += "-" if score.mean is None else f"{score.mean:.4f}"
                if score.deviation is not None:
                    title += f" ± {score.deviation:.4f}"
                axis.set_title(title, fontsize=10)
            elif row.differences:
                _draw_row(axis, arms.index(row.arm), row, COLORS[student])
            else:
                axis.text(0.0, arms.index(row.arm), "  no run yet", va="center", color=GREY)
        axis.axvline(0.0, color=GREY, lw=1, ls="--", zorder=0)
        axis.set_xlabel(f"difference in {metric} to {reference}")
        axis.grid(axis="x", color="#e6e6e6", zorder=-1)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.supxlabel(
        "rings: seeds, paired;  dot and bar: mean and 95 % t interval", fontsize=9, color=GREY
    )
    figure.savefig(path, dpi=130)


def _draw_row(axis: Any, y: int, row: Any, color: str) -> None:
    values = list(row.differences.values())
    axis.plot(values, np.full(len(values), y + 0.18), "o", ms=4, mfc="none", mec=color, alpha=0.7)
    mean, _, low, high = row.difference[1:]
    if low is not None:
        axis.plot([low, high], [y, y], color=color, lw=2.2, solid_capstyle="butt")
    axis.plot([mean], [y], "o", color=color, ms=7)


def draw_teaching(path: Path, logs: Mapping[str, list[list[dict]]]) -> None:
    """How teaching went over the steps: a row for each student, a column for each quantity.

    Args:
      path: of the PNG.
      logs: {label: the lines of each metrics.jsonl that belong to it}. A line for each label, the
        mean of its runs, smoothed; of a single label the values themselves too, and the gradient
        norm of each loss where the log has them.
    """
    curves = {label: _mean_over_runs(runs) for label, runs in logs.items()}
    single = len(logs) == 1
    norms = [
        key for key in next(iter(curves.values()), {}) if key.endswith("_grad_norm") and single
    ]
    columns = len(TEACHING_PANELS) + bool(norms)
    figure = Figure(figsize=(3.5 * columns, 6.2), layout="constrained")
    axes = figure.subplots(len(STUDENTS), columns, sharex=True, squeeze=False)
    for row, student in zip(axes, STUDENTS, strict=True):
        for axis, (title, key) in zip(row, TEACHING_PANELS, strict=False):
            axis.set_title(title, fontsize=8.5)
            for i, (label, curve) in enumerate(curves.items()):
                color = COLORS[student] if single else MANY[i % len(MANY)]
                _draw_curve(axis, curve.get(f"{student}/{key}"), color, label, raw=single)
            if key == "common_rank":
                axis.set_yscale("log", base=2)
                axis.yaxis.set_major_formatter(ScalarFormatter())
                axis.set_ylim(bottom=1)
            else:
                axis.set_ylim(0, 1)
            if not axis.lines:
                axis.text(0.5, 0.5, "not in use", transform=axis.transAxes, ha="center", color=GREY)
        own = [key for key in norms if key.startswith(f"{student}/")]
        for i, key in enumerate(own):
            label = key.split("/")[1].removesuffix("_grad_norm")
            _draw_curve(row[-1], curves[next(iter(curves))][key], MANY[i % len(MANY)], label)
        if own:
            row[-1].set_title("gradient norm of each loss, unweighted", fontsize=8.5)
            row[-1].set_yscale("log")
            row[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        row[0].set_ylabel(f"{NAMES[student]} learns")
        for axis in row:
            axis.grid(color="#e6e6e6")
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    if not single:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(path, dpi=110)


def _mean_over_runs(runs: Sequence[Sequence[dict]]) -> dict[str, tuple]:
    """{key: (steps, values)} of all keys of the log lines, averaged over runs."""
    by_key: dict[str, dict[int, list]] = {}
    for entries in runs:
        for entry in entries:
            for key, value in entry.items():
                if key != "step" and value is not None:
                    by_key.setdefault(key, {}).setdefault(entry["step"], []).append(value)
    return {
        key: (sorted(by_step), [float(np.mean(by_step[step])) for step in sorted(by_step)])
        for key, by_step in by_key.items()
    }


def _draw_curve(
    axis: Any, curve: tuple | None, color: str, label: str, *, raw: bool = False
) -> None:
    """A curve, smoothed over about a fifteenth of its points at a time."""
    if curve is None:
        return
    steps, values = np.asarray(curve[0]), np.asarray(curve[1])
    half = len(values) // 30
    smooth = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    if raw:
        axis.plot(steps, values, color=color, lw=0.8, alpha=0.3)
    axis.plot(steps, smooth, color=color, lw=1.6, label=label)
