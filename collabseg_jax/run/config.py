"""The keys of a config: dotted names, which of them decide what is trained, and their ranges."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from collabseg_jax.data.transforms import MIN_SIDE
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.run.pages import load

# Sections and keys that do not change what is trained.
FREE_KEYS = (
    *("eval", "predict", "export", "describe", "compile", "checkpoint", "log", "mesh"),
    *("max_skipped", "loss_rows", "remat"),
    *("data.workers", "data.raw_dir", "data.dir", "data.cache"),
    "data.subset",  # compared by the records it chooses, in the fingerprint of the data
)


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a key may have.

    Attributes:
      least: the smallest number, inclusive; `above`: exclusive.
      most: the largest number, inclusive.
      choices: of a word.
      whole: whether it must be an integer.
      note: what the number is, for the error line.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    whole: bool = False
    note: str = ""

    def holds(self, number: Any) -> bool:
        """Whether it is a number in the range; NaN and infinities are in none."""
        if not isinstance(number, int if self.whole else int | float):
            return False
        return math.isfinite(number) and self.above < number and self.least <= number <= self.most

    def __str__(self) -> str:
        """What follows "expected"."""
        exclusive = self.above > -math.inf
        low = f"more than {self.above:g}" if exclusive else f"at least {self.least:g}"
        return f"{low} and at most {self.most:g}" if self.most < math.inf else low


_SHARE = Range(least=0, most=1, note="a share")
_STRENGTH = Range(least=0, note="a finite number")
_SIZE = Range(least=MIN_SIDE, whole=True, note="(height, width) in pixels")

# Every range of a single key. What several keys decide together is checked in `_check_together`,
# or where they meet: in the optimizers, the objective, the students and the mesh.
RANGES: dict[str, Range] = {
    "seed": Range(least=0, most=2**32 - 1),
    "steps": Range(least=1),
    "batch_size": Range(least=2, note="the BatchNorm after image pooling sees one value per image"),
    "precision": Range(choices=("float32", "bfloat16")),
    "warmup_steps": Range(least=-1),
    "ramp_steps": Range(least=-1),
    "loss_rows": Range(least=-1),
    "max_skipped": Range(least=1),
    "data.crop": _SIZE,
    "data.scale": Range(above=0, note="(smallest, largest)"),
    "data.oversample": Range(least=0, most=1, note="a share of the images, 0 for no oversampling"),
    "data.cat_max_ratio": Range(above=0, most=1, note="a share of the crop's pixels"),
    "data.workers": Range(least=0),
    "data.brightness": _STRENGTH,
    "data.contrast": _STRENGTH,
    "data.saturation": _STRENGTH,
    "data.hue": Range(least=0, most=0.5, note="turns of the colour circle"),
    "bridges.mask_ratio": _SHARE,
    "eval.every": Range(least=0),
    "eval.batch_size": Range(least=1),
    "eval.max_shapes": Range(least=1),
    "eval.short_side": Range(least=0, note="pixels, 0 for images as they are"),
    "eval.checkpoint": Range(choices=("latest", "best")),
    "predict.student": Range(choices=("cnn", "vit", "ensemble")),
    "predict.long_side": Range(least=MIN_SIDE, note="pixels"),
    "predict.encoding": Range(choices=("train_ids", "official")),
    "export.student": Range(choices=("cnn", "vit")),
    "export.size": _SIZE,
    "describe.size": _SIZE,
    "checkpoint.every": Range(least=1),
    "checkpoint.keep": Range(least=1),
    "log.every": Range(least=1),
    "log.samples": Range(least=0),
}
_OF_TWO = ("data.crop", "data.scale", "export.size", "describe.size")


def check(config: Any) -> None:
    """Compare the keys of a config with those there are, their ranges, and with each other.

    Args:
      config: every key of configs/base.py.

    Raises:
      InputError: one line that names the key, its value and what was expected.
    """
    flat, known = flatten(config), flatten(load("base"))
    for key in flat:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"the config sets an unknown key {key!r}{hint}")
    if missing := [key for key in known if key not in flat]:
        raise InputError(f"the config has no {', '.join(missing)}, expected all of configs/base.py")
    for key, value in flat.items():
        if key in RANGES:
            _check(key, value, RANGES[key])
    _check_together(flat)


def _check(key: str, value: Any, allowed: Range) -> None:
    if allowed.choices:
        if value not in allowed.choices:
            raise unknown(key, value, allowed.choices)
    elif key in _OF_TWO:
        value = tuple(value) if isinstance(value, list) else value
        if not isinstance(value, tuple) or len(value) != 2 or not all(map(allowed.holds, value)):
            raise InputError(f"config.{key} is {value!r}, expected {allowed.note}, each {allowed}")
    elif not allowed.holds(value):
        note = f": {allowed.note}" if allowed.note else ""
        raise InputError(f"config.{key} is {value!r}, expected {allowed}{note}")


def _check_together(flat: Mapping[str, Any]) -> None:
    low, high = flat["data.scale"]
    if low > high:
        raise InputError(f"config.data.scale is {(low, high)}, expected the smaller one first")
    if flat["data.cache"] and flat["data.workers"]:
        raise InputError(
            f"config.data.workers is {flat['data.workers']}, expected 0 with config.data.cache: "
            "each worker would keep all images"
        )
    if flat["cnn.frozen"] and flat["vit.frozen"]:
        raise InputError(
            "config.cnn.frozen and config.vit.frozen are both true, expected a student that learns"
        )


def is_free(key: str) -> bool:
    """Whether a dotted key may differ between a run and its continuation."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def flatten(config: Any) -> dict[str, Any]:
    """{dotted key: value} of a config, tuples as lists, as JSON would give them."""
    return flatten_dict(json.loads(json.dumps(config.to_dict())), sep=".")
