"""What every format of an export shares: the student, its labels, its card."""

import json
from pathlib import Path
from typing import NamedTuple

from flax import linen as nn

from collabseg_jax.collab.augment import MEAN, STD

LABELS = "labels.json"


class Student(NamedTuple):
    """A student that leaves.

    Attributes:
      name: of the model, as in `models.MODELS`.
      model, variables: the linen module; {"params", "batch_stats"} as NumPy float32.
      classes: names of the classes.
      palette: (r, g, b) of each class, or ().
    """

    name: str
    model: nn.Module
    variables: dict
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()


def write_json(path: Path, content: dict) -> None:
    """Indented, with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_labels(directory: Path, student: Student, **more) -> None:
    """`labels.json`: what the channels of the logits mean, and what `more` says about the input."""
    write_json(
        directory / LABELS,
        {
            "classes": list(student.classes),
            "palette": [list(colour) for colour in student.palette],
            "mean": list(MEAN),
            "std": list(STD),
            **more,
        },
    )


def write_card(directory: Path, student: Student, *, use: str, details: dict) -> None:
    """`README.md`: what this is, how to use it, classes, scores, data, configuration.

    Args:
      directory: where; student: see `Student`.
      use: Markdown, how this format is loaded.
      details: {"trained_on": text, "scores": {score: number}, "scored": text, "per_class":
        {class: IoU or None}, "config": dict}, all of them optional.
    """
    scores, per_class = details.get("scores", {}), details.get("per_class", {})
    lines = [f"# {student.name}, {len(student.classes)} classes", ""]
    lines += [
        "A semantic segmentation model trained with collabseg_jax: a CNN and a transformer that",
        "teach each other (Zhu et al., *A Good Student is Cooperative and Reliable*, ICCV 2023).",
        "This is one of the two.",
        *("", "## Use", "", use.strip(), ""),
        *("## Trained on", "", details.get("trained_on") or "not recorded", ""),
        *("## Scores", ""),
    ]
    if scores:
        lines += ["| score | value |", "|---|---|"]
        lines += [f"| {key} | {_number(value)} |" for key, value in scores.items()]
        lines += ["", details["scored"]] if "scored" in details else []
    else:
        lines += ["not recorded"]
    lines += ["", "## Classes", "", "| index | class | colour | IoU |", "|---|---|---|---|"]
    for i, name in enumerate(student.classes):
        colour = "#{:02x}{:02x}{:02x}".format(*student.palette[i]) if student.palette else "-"
        lines.append(f"| {i} | {name} | {colour} | {_number(per_class.get(name))} |")
    config = json.dumps(details.get("config", {}), indent=1)
    lines += ["", "## Configuration", "", "```json", config, "```", ""]
    (directory / "README.md").write_text("\n".join(lines))


def _number(value) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
