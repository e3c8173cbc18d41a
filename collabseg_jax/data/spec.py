"""The facts about a data set without its files: classes, colours, splits, label values."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from collabseg_jax.labels import IGNORE


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """The facts about one data set that models, metrics and pictures need.

    Attributes:
      name: what selects it, `config.data.name`.
      classes: class names; the position of a name is its train id, from 0; at most 255. Empty
        where the raw files name them: `data.get_spec` fills them in.
      palette: one (r, g, b) in 0..255 for each class.
      splits: the splits that the official layout can have, the training split first.
      label_values: value in a label file -> train id, or 255 where a pixel does not count. Any
        other value is an error. Empty: files hold train ids and 255 already.
      label_colors: (r, g, b) in a label file -> train id or 255, for labels that are images of
        colours. Any other colour is an error. Empty: labels hold values only.
      official_values: the value of each class in the official label files, which evaluation servers
        expect. Empty: the train ids.
      source: where a person gets the data, and its official layout.
      licence: the terms of the data.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: tuple[str, ...]
    label_values: Mapping[int, int] = dataclasses.field(default_factory=dict, hash=False)
    label_colors: Mapping[tuple[int, int, int], int] = dataclasses.field(
        default_factory=dict, hash=False
    )
    official_values: tuple[int, ...] = ()
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Refuses a spec that contradicts itself."""
        if len(self.classes) > IGNORE:
            raise ValueError(
                f"{self.name}: expected 1 to {IGNORE} classes, found {len(self.classes)}"
            )
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{self.name}: {len(self.palette)} colours for {len(self.classes)} classes"
            )
        if self.official_values and len(self.official_values) != len(self.classes):
            raise ValueError(
                f"{self.name}: {len(self.official_values)} official values for "
                f"{len(self.classes)} classes"
            )
        for raw, train_id in self.label_values.items():
            if not 0 <= raw <= 255 or not (0 <= train_id < self.num_classes or train_id == IGNORE):
                raise ValueError(
                    f"{self.name}: label_values maps {raw} to {train_id}; expected 0..255 to "
                    f"0..{self.num_classes - 1} or {IGNORE}"
                )
        for color, train_id in self.label_colors.items():
            if not (0 <= train_id < self.num_classes or train_id == IGNORE):
                raise ValueError(
                    f"{self.name}: label_colors maps {color} to {train_id}; expected "
                    f"0..{self.num_classes - 1} or {IGNORE}"
                )

    def to_record(self) -> dict[str, Any]:
        """All attributes in types that JSON has; `from_record` reads them back."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return record | {
            "classes": list(self.classes),
            "splits": list(self.splits),
            "official_values": list(self.official_values),
            "palette": [_hex(color) for color in self.palette],
            "label_values": {str(raw): train_id for raw, train_id in self.label_values.items()},
            "label_colors": {_hex(color): i for color, i in self.label_colors.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "DatasetSpec":
        """The spec that `to_record` turned into a record, which may have been saved as JSON."""
        return cls(
            name=record["name"],
            classes=tuple(record["classes"]),
            palette=tuple(_rgb(text) for text in record["palette"]),
            splits=tuple(record["splits"]),
            label_values={int(raw): i for raw, i in record["label_values"].items()},
            label_colors={_rgb(text): i for text, i in record["label_colors"].items()},
            official_values=tuple(record["official_values"]),
            source=record["source"],
            licence=record["licence"],
        )

    @property
    def num_classes(self) -> int:
        """How many classes are trained and scored."""
        return len(self.classes)

    @functools.cached_property
    def label_lut(self) -> np.ndarray:
        """Value in a label file -> train id, uint8 [256]; also 255 for values not allowed."""
        lut = np.full(256, IGNORE, np.uint8)
        for raw, train_id in self._values.items():
            lut[raw] = train_id
        return lut

    @functools.cached_property
    def label_allowed(self) -> np.ndarray:
        """Which values may occur in a label file, bool [256]."""
        allowed = np.zeros(256, bool)
        allowed[list(self._values)] = True
        return allowed

    @property
    def _values(self) -> Mapping[int, int]:
        return self.label_values or {**{i: i for i in range(self.num_classes)}, IGNORE: IGNORE}


def _hex(color: tuple[int, int, int]) -> str:
    """(128, 0, 255) -> "#8000ff"."""
    return "#" + bytes(color).hex()


def _rgb(text: str) -> tuple[int, int, int]:
    """ "#8000ff" -> (128, 0, 255)."""
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
