"""Charts of numbers: what arms of a study differ by, and how teaching went."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from collabseg_jax.pair import STUDENTS

matplotlib.use("Agg")

# Blue and orange stay apart for all kinds of colour blindness; `pictures.TEACHING` has them too.
COLORS = {"cnn": "#0b5fa5", "vit": "#d1570a"}
NAMES = {"cnn": "CNN student", "vit": "ViT student"}
GREY = "#555555"


def draw_differences(path: Path, rows, *, reference: str, metric: str) -> None:
    """A panel for each student: the difference of each arm to the reference.

    Args:
      rows: of `comparison.compare`. Small rings are the seeds, the dot is their mean, the bar the
        interval; an arm that has no seed in common with the reference has none of them.
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


def _draw_row(axis, y: int, row, color: str) -> None:
    values = list(row.differences.values())
    axis.plot(values, np.full(len(values), y + 0.18), "o", ms=4, mfc="none", mec=color, alpha=0.7)
    mean, _, low, high = row.difference[1:]
    if low is not None:
        axis.plot([low, high], [y, y], color=color, lw=2.2, solid_capstyle="butt")
    axis.plot([mean], [y], "o", color=color, ms=7)
