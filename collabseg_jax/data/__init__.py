"""Data sets: `prepare` one, then read `train_batches` or `eval_batches` from its splits."""

from collabseg_jax.data.builders import ade20k, camvid, cityscapes, pascal_voc, shapes
from collabseg_jax.data.pipeline import eval_batches, plan_buckets, train_batches
from collabseg_jax.data.prepared import Prepared, open_prepared
from collabseg_jax.data.spec import IGNORE, DatasetSpec
from collabseg_jax.errors import unknown

__all__ = [
    "IGNORE",
    "SPECS",
    "DatasetSpec",
    "Prepared",
    "eval_batches",
    "get_spec",
    "plan_buckets",
    "prepare",
    "train_batches",
]

SPECS = {
    "ade20k": ade20k.SPEC,
    "camvid": camvid.SPEC,
    "cityscapes": cityscapes.SPEC,
    "pascal_voc": pascal_voc.SPEC,
    "shapes": shapes.SPEC,
}
_BUILDERS = {
    "ade20k": ade20k.ADE20K,
    "camvid": camvid.CamVid,
    "cityscapes": cityscapes.Cityscapes,
    "pascal_voc": pascal_voc.PascalVOC,
    "shapes": shapes.Shapes,
}


def get_spec(name: str) -> DatasetSpec:
    """The spec of a data set.

    Raises:
      InputError: there is none of this name.
    """
    if name not in SPECS:
        raise unknown("data set", name, SPECS)
    return SPECS[name]


def prepare(name: str, *, raw_dir: str = "", data_dir: str = "") -> Prepared:
    """Opens the prepared copy of a data set; the first time, makes it and shows progress.

    A copy belongs to the raw files' names, sizes and contents: other files make another copy
    beside it, so that a copy is never out of date.

    Args:
      name: a key of SPECS.
      raw_dir: the data set's folder in its official layout. Empty: take the only prepared copy.
      data_dir: where copies are kept. Empty: $TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Raises:
      InputError: unknown name; raw files missing, unpaired or empty; no copy, or several.
    """
    return open_prepared(get_spec(name), _BUILDERS[name], raw_dir=raw_dir, data_dir=data_dir)
