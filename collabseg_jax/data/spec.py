"""What a data set is, apart from its files: classes, colours, splits, and what its labels mean."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """The facts about one data set that models, metrics and pictures need.

    Attributes:
      name: the word that selects it, `config.data.name`.
      classes: class names; the position of a name is its train id, from 0; at most 255.
      palette: one (r, g, b) in 0..255 per class.
      splits: the splits that the official layout can have, the training split first.
      label_values: value in a label file -> train id, or 255 where a pixel does not count. Any
        other value is an error. Empty: files hold train ids and 255 already.
      source: where a person gets the data, and its official layout.
      licence: the terms of the data.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: tuple[str, ...]
    label_values: Mapping[int, int] = dataclasses.field(default_factory=dict, hash=False)
    source: str = ""
    licence: str = ""

    def __post_init__(self):
        """Refuses a spec that contradicts itself."""
        if not 1 <= len(self.classes) <= IGNORE:
            raise ValueError(f"{self.name}: expected 1 to 255 classes, found {len(self.classes)}")
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{self.name}: {len(self.palette)} colours for {len(self.classes)} classes"
            )
        for raw, train_id in self.label_values.items():
            if not 0 <= raw <= 255 or not (0 <= train_id < self.num_classes or train_id == IGNORE):
                raise ValueError(
                    f"{self.name}: label_values maps {raw} to {train_id}; expected 0..255 to "
                    f"0..{self.num_classes - 1} or {IGNORE}"
                )

    @property
    def num_classes(self) -> int:
        """How many classes are trained and scored."""
        return len(self.classes)

    @functools.cached_property
    def label_lut(self) -> np.ndarray:
        """Value in a label file -> train id, uint8 [256]; 255 too for values not allowed."""
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
