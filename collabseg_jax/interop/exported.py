"""What all export formats have in common: the student, its labels, its card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn

from collabseg_jax.collab.augment import MEAN, STD

LABELS = "labels.json"


class Student(NamedTuple):
    """A student to export.

    Attributes:
      name: of the model, a key of `models.MODELS`.
      model: the linen module.
      variables: {"params", "batch_stats"} as NumPy float32.
      classes: names of the classes.
      palette: (r, g, b) in 0..255 of each class, or ().
    """

    name: str
    model: nn.Module
    variables: Mapping[str, Any]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_labels(directory: Path, student: Student, **more: Any) -> None:
    """Writes `labels.json`: what the logits' channels mean, and `more` about the input."""
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


def write_card(directory: Path, student: Student, *, use: str, details: Mapping[str, Any]) -> None:
    """Writes `README.md`: what this is, how to use it, classes, scores, data, configuration.

    Args:
      directory: where to write it.
      student: what is exported.
      use: how this format is loaded, Markdown.
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


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
