"""Data sets: `prepare` one, then read `train_batches` or `eval_batches` from its splits."""

from collections.abc import Collection

from collabseg_jax.data import places
from collabseg_jax.data.builders import ade20k, base, camvid, cityscapes, folder, pascal_voc, shapes
from collabseg_jax.data.check_report import Checked, check_files, check_records
from collabseg_jax.data.evaluation import eval_batches, plan_buckets
from collabseg_jax.data.existing_copies import find_spec
from collabseg_jax.data.prepared import Prepared, open_prepared
from collabseg_jax.data.records import InMemory
from collabseg_jax.data.selection import choose
from collabseg_jax.data.source import Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.training import cache_bytes, train_batches
from collabseg_jax.errors import unknown
from collabseg_jax.labels import IGNORE

__all__ = [
    "IGNORE",
    "SPECS",
    "Checked",
    "DatasetSpec",
    "InMemory",
    "Prepared",
    "Source",
    "cache_bytes",
    "check",
    "choose",
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
    "folder": folder.SPEC,
    "pascal_voc": pascal_voc.SPEC,
    "shapes": shapes.SPEC,
}
_BUILDERS: dict[str, type[base.RecordBuilder]] = {
    "ade20k": ade20k.ADE20K,
    "camvid": camvid.CamVid,
    "cityscapes": cityscapes.Cityscapes,
    "folder": folder.Folder,
    "pascal_voc": pascal_voc.PascalVOC,
    "shapes": shapes.Shapes,
}


def get_spec(name: str, *, raw_dir: str = "", data_dir: str = "") -> DatasetSpec:
    """The spec of a data set; nothing is prepared.

    Args:
      name: a key of SPECS.
      raw_dir: as for `prepare`; read only if the files name the classes (`folder`).
      data_dir: as for `prepare`; read only in that case, and only without a raw_dir.

    Raises:
      InputError: unknown name; the files that name the classes are missing or bad.

    Example:
      >>> from collabseg_jax import data
      >>> data.get_spec("camvid").num_classes
      11
    """
    spec = _known(name)
    if spec.classes:
        return spec
    builder = _BUILDERS[name]
    assert issubclass(builder, base.PairBuilder)  # a generated set has classes
    return find_spec(spec, builder, raw_dir=raw_dir, data_dir=data_dir)


def _known(name: str) -> DatasetSpec:
    if name not in SPECS:
        raise unknown("data set", name, SPECS)
    return SPECS[name]


def prepare(name: str, *, raw_dir: str = "", data_dir: str = "", verify: bool = False) -> Prepared:
    """Opens the prepared copy of a data set; the first time, makes it and shows progress.

    It continues an interrupted preparation, and a new copy is read back and compared before it is
    used. A copy belongs to the names, sizes and contents of the raw files: other files make another
    copy, so that a copy is never out of date.

    Args:
      name: a key of SPECS.
      raw_dir: the data set's folder in its official layout. Empty: use the only prepared copy.
      data_dir: where copies are kept. Empty: $TFDS_DATA_DIR, or ~/tensorflow_datasets.
      verify: whether to read an existing copy to its end too; a damaged one is set aside.

    Raises:
      InputError: unknown name; raw files missing, unpaired or empty; no copy, or several; a copy
        is damaged (names the record).
      RunError: the disk is full.

    Example:
      >>> import tempfile
      >>> from collabseg_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:  # draws the 720 scenes of `shapes`
      ...     prepared = data.prepare("shapes", data_dir=folder)
      ...     print(prepared.sizes, prepared.source("train")[0]["name"])
      {'train': 600, 'val': 120} train_0000
    """
    return open_prepared(
        _known(name), _BUILDERS[name], raw_dir=raw_dir, data_dir=data_dir, verify=verify
    )


def check(
    name: str,
    *,
    raw_dir: str = "",
    data_dir: str = "",
    needed: Collection[str] = (),
    crop: tuple[int, int] = (1, 1),
) -> Checked:
    """Reads every pair of a data set once, shows progress, and reports what it contains.

    What is wrong with the data is in the report and raises nothing. Raw files are read directly;
    nothing is prepared, unless there is no raw_dir.

    Args:
      name: a key of SPECS.
      raw_dir: as for `prepare`. Empty: the prepared copy is checked.
      data_dir: as for `prepare`.
      needed: splits whose absence is a warning.
      crop: (height, width) in pixels; a smaller training image is a warning.

    Raises:
      InputError: unknown name; no raw_dir, and no copy or several.

    Example:
      >>> import tempfile
      >>> from collabseg_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checked = data.check("camvid", raw_dir=folder)
      >>> len(checked.report["errors"])  # an empty folder is not CamVid
      1
    """
    builder = _BUILDERS[_known(name).name]
    if raw_dir and issubclass(builder, base.PairBuilder):
        root = places.resolve(raw_dir, "data.raw_dir")
        return check_files(SPECS[name], builder, root, needed=needed, crop=crop)
    prepared = prepare(name, raw_dir=raw_dir, data_dir=data_dir)
    return check_records(prepared, needed=needed, crop=crop)
