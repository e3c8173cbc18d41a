"""`--mode=check`: read every pair of a data set once, and say what is in it and what is wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collabseg_jax import data
from collabseg_jax.data.check_pairs import load
from collabseg_jax.data.check_report import NEARLY_ALL, near_empty
from collabseg_jax.report import drawing, pictures
from collabseg_jax.run.config import check
from collabseg_jax.run.files import replace_text, writing

SHOWN = 20  # lines of a kind that are printed
SAMPLES = 6  # pairs of a split on the page, and at most as many that are nearly empty
HEADINGS = {
    "missing_splits": "splits that this configuration needs and that have no pairs",
    "classes_not_in_training": "classes that no training label has",
    "repeats_across_splits": "images that are in several splits (the same pixels)",
    "repeats_within_split": "images that are in a split more than once (the same pixels)",
    "near_empty_labels": f"labels of which {NEARLY_ALL:.0%} or more is one class, or ignored",
    "smaller_than_crop": "training images that are smaller than config.data.crop",
}


def text(report: Mapping[str, Any]) -> str:
    """What `--mode=check` prints of `data.Checked.report`."""
    splits = report["splits"]
    lines = [f"{report['data_set']} in {report['where']}"]
    if splits:
        lines += ["", *_split_table(splits), "", *_class_table(splits)]
    problems = [("errors", report["errors"])]
    problems += [
        (f"warning: {HEADINGS[kind]}", named) for kind, named in report["warnings"].items()
    ]
    for heading, named in problems:
        if named:
            lines += ["", f"{heading} ({len(named)})", *(f"  {line}" for line in named[:SHOWN])]
        if len(named) > SHOWN:
            lines.append(f"  and {len(named) - SHOWN} more in check.json")
    return "\n".join(lines)


def _split_table(splits: Mapping[str, Any]) -> list[str]:
    lines = [f"{'split':12}{'pairs':>8}{'unusable':>10}{'ignored':>10}  sizes (width x height)"]
    for split, row in splits.items():
        lines.append(
            f"{split:12}{row['pairs']:>8}{row['unusable']:>10}{row['ignored']:>9.2%}  "
            f"{_sizes_in_words(row['sizes'])}".rstrip()
        )
    return lines


def _sizes_in_words(sizes: Mapping[str, Any]) -> str:
    if not sizes:
        return ""
    if sizes["distinct"] == 1:
        return f"all {sizes['smallest']}"
    return (
        f"{sizes['distinct']} different, {sizes['smallest']} to {sizes['largest']}, "
        f"median {sizes['median']}"
    )


def _class_table(splits: Mapping[str, Any]) -> list[str]:
    """Of each class: its share of the pixels that count, and in how many images it is."""
    names = list(next(iter(splits.values()))["classes"])
    width = max(12, *(len(name) + 2 for name in names))
    lines = [
        " " * width + "".join(f"{split:>20}" for split in splits),
        f"{'class':{width}}" + f"{'share':>12}{'images':>8}" * len(splits),
    ]
    for name in names:
        cells = (row["classes"][name] for row in splits.values())
        lines.append(
            f"{name:{width}}" + "".join(f"{c['share']:>12.3%}{c['images']:>8}" for c in cells)
        )
    return lines


def _count(what: str, number: int) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _samples(checked: data.Checked) -> list[tuple]:
    """What `pictures.draw_pairs` draws: suspicious pairs, then evenly spaced ones of each split."""
    usable = {
        split: [reading for reading in readings if reading.counts is not None]
        for split, readings in checked.readings.items()
    }
    picks = [("nearly empty", r) for pairs in usable.values() for r in pairs if near_empty(r)]
    picks = picks[:SAMPLES]
    for split, pairs in usable.items():
        spaced = np.linspace(0, len(pairs) - 1, min(SAMPLES, len(pairs))).round().astype(int)
        picks += [(split, pairs[i]) for i in spaced]
    return [(kind, r.names[0], *load(r, checked.spec)) for kind, r in picks]


def run(config: Any, workdir: Any) -> dict[str, Any]:
    """Check the data of a config; print the report, write `check.json` and `check.png`.

    Args:
      config: every key of configs/base.py.
      workdir: a folder for the two files.

    Returns:
      the report; data that training would refuse are in its `errors`.
    """
    check(config)
    checked = data.check(
        config.data.name,
        raw_dir=config.data.raw_dir,
        data_dir=config.data.dir,
        needed=dict.fromkeys([*config.data.split.split("+"), *config.eval.split.split("+")]),
        crop=tuple(config.data.crop),
    )
    workdir = Path(workdir)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    replace_text(workdir / "check.json", json.dumps(checked.report, indent=1) + "\n")
    samples, page = _samples(checked), workdir / "check.png"
    with writing(page):
        page.unlink(missing_ok=True)  # one of an earlier check
    problem = ""
    if samples:
        problem = drawing.attempt(
            page, lambda path: pictures.draw_pairs(path, samples, checked.spec)
        )
    errors = _count("error", len(checked.report["errors"]))
    warnings = _count("warning", sum(map(len, checked.report["warnings"].values())))
    written = "check.json and check.png" if samples and not problem else "check.json"
    print(text(checked.report))
    if problem:
        print(f"\n{problem}")
    print(f"\n{errors}, {warnings}; {written} in {workdir}")
    return checked.report
