"""Trained students on new pictures: from the command line and from Python."""

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from collabseg_jax import data
from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.collab.programs import jit_apply_students, jit_label_maps
from collabseg_jax.collab.sharding import make_mesh
from collabseg_jax.data.decode import decode_image, image_size
from collabseg_jax.data.transforms import MIN_SIDE, network_size, pad_image, resize_image
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.report import pictures
from collabseg_jax.run.build import make_run
from collabseg_jax.run.config import check
from collabseg_jax.run.console import Progress, console
from collabseg_jax.run.files import writing
from collabseg_jax.run.record import recorded_config, recorded_spec

# Of the pictures in a folder; a file or a glob may have any.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


def predictor(workdir: Any, config: Any, student: str) -> Callable:
    """A function from uint8 [H, W, 3] to uint8 [H, W] for "cnn", "vit" or "ensemble".

    Args:
      workdir: of a trained run.
      config: of that run.
      student: "cnn", "vit" or "ensemble".

    Returns:
      predict(image, seen_shape=None, map_shape=None): the label map at the image's own size.
      `seen_shape` is what the network's input is padded to, `map_shape` what the map is computed
      at before it is cut, so that images of several sizes share programs.
    """
    if student not in OUTPUTS:
        raise unknown("student", student, OUTPUTS)
    mesh = make_mesh(devices=jax.local_devices()[:1])
    run = make_run(config, spec=recorded_spec(workdir), mesh=mesh)
    state = run.restore(workdir)
    students = STUDENTS if student == "ensemble" else (student,)
    variables = {name: getattr(state, name).variables for name in students}
    apply_students = jit_apply_students(pair=run.pair, students=students, how=run.inference)
    label_maps = jit_label_maps(outputs=(student,))

    def predict(
        image: np.ndarray,
        seen_shape: tuple[int, int] | None = None,
        map_shape: tuple[int, int] | None = None,
    ) -> np.ndarray:
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"image is {image.dtype} {image.shape}, expected uint8 [height, width, 3] RGB"
            )
        height, width = image.shape[:2]
        seen = _seen_size((height, width), config)
        seen_shape = seen_shape or (max(MIN_SIDE, seen[0]), max(MIN_SIDE, seen[1]))
        padded = pad_image(resize_image(image, seen), seen_shape)
        sizes = np.array([(*seen, height, width)], np.int32)
        logits = apply_students(variables, padded[None])
        maps = label_maps(logits, map_shape or (height, width), sizes)
        return np.asarray(maps[student][0, :height, :width])

    return predict


def _seen_size(size: tuple[int, int], config: Any) -> tuple[int, int]:
    """(height, width) at which the network sees a picture of such a size."""
    return network_size(size, short_side=config.eval.short_side, long_side=config.predict.long_side)


def load(workdir: Any, student: str = "ensemble") -> Callable[[np.ndarray], np.ndarray]:
    """A trained student as a function.

    Args:
      workdir: of a run, as `--workdir`.
      student: "cnn", "vit" or "ensemble".

    Returns:
      f(image uint8 [H, W, 3] RGB) -> label map uint8 [H, W].

    Raises:
      InputError: nothing was trained there, or an unknown student.

    Example:
      segment = collabseg_jax.load("runs/quickstart", "cnn")
      labels = segment(image)
    """
    return predictor(workdir, recorded_config(workdir, ml_collections.ConfigDict()), student)


def run(config: Any, workdir: Any) -> dict[str, list[str]]:
    """`--mode=predict`: label maps and overlays of the pictures that are asked for.

    A picture that cannot be read is named, and the others are done.

    Args:
      config: as for `record.recorded_config`.
      workdir: of a run.

    Returns:
      {"failed": a line for each picture that could not be read}.

    Raises:
      InputError: nothing was trained there, there are no pictures, or a key is wrong.
      RunError: the folder of the label maps cannot be written.
    """
    config = recorded_config(workdir, config)
    check(config)
    spec = recorded_spec(workdir)
    values = _values(config.predict.encoding, spec)
    out = Path(config.predict.dir or Path(workdir) / "predictions").expanduser()
    names = _names(_find_pictures(config.predict.images), out)
    with writing(out):  # before the work
        out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    sizes = {}
    for path in names:
        try:
            sizes[path] = image_size(_content(path), str(path))
        except InputError as error:
            failed.append(str(error))
            console(failed[-1])
    seen_sizes = [_seen_size(size, config) for size in sizes.values()]
    seen = data.plan_buckets(seen_sizes, config.eval.max_shapes)
    own = data.plan_buckets(list(sizes.values()), config.eval.max_shapes)
    predict = predictor(workdir, config, config.predict.student)
    progress = Progress(len(sizes), "predicting", "picture")
    for path, seen_shape, map_shape in zip(sizes, seen, own, strict=True):
        try:
            image = decode_image(_content(path), str(path))
        except InputError as error:  # damaged behind its header
            failed.append(str(error))
            console(failed[-1])
            continue
        labels = predict(image, seen_shape, map_shape)
        with writing(out / f"{names[path]}.png") as target:
            target.parent.mkdir(parents=True, exist_ok=True)
            if values is None:
                pictures.save_label_map(target, labels, spec.palette)
            else:
                Image.fromarray(values[labels]).save(target)
        if config.predict.overlays:
            mixed = pictures.overlay(image, labels, spec.palette)
            with writing(out / f"{names[path]}_overlay.jpg") as target:
                Image.fromarray(mixed).save(target, quality=92)
        progress.advance()
    progress.close()
    overlays = " and overlays (NAME_overlay.jpg)" if config.predict.overlays else ""
    console(f"{len(names) - len(failed)} label maps (NAME.png){overlays} in {out}")
    if failed:
        console(f"{len(failed)} of {len(names)} pictures could not be read; they are named above")
    return {"failed": failed}


def _find_pictures(images: str) -> list[Path]:
    """The pictures that `config.predict.images` names: a file, a folder, or a glob.

    Raises:
      InputError: there is none.
    """
    path = Path(images).expanduser()
    if images and path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    elif images and path.is_file():  # square brackets in a name are no pattern then
        files = [path]
    else:
        files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
    if not files:
        raise InputError(
            f"config.predict.images={images!r} matches no file, expected a picture, a folder with "
            "some, or a glob such as 'photos/*.jpg'"
        )
    return files


def _names(paths: list[Path], out: Path) -> dict[Path, str]:
    """What each picture's files are called in `out`, without the ending.

    The picture's own name; if several folders have pictures of one name, with the folders below
    the one that all pictures are in.

    Raises:
      InputError: two pictures of a folder differ in their endings alone, or one is in `out`.
    """
    for path in paths:
        if path.parent.resolve() == out.resolve():
            raise InputError(
                f"{path} lies in the folder that label maps are written to, expected pictures "
                "from elsewhere, or another --config.predict.dir"
            )
    names = {path: path.stem for path in paths}
    if len(set(names.values())) < len(paths):
        top = Path(os.path.commonpath([path.parent for path in paths]))
        names = {path: str(path.relative_to(top).with_suffix("")) for path in paths}
    first: dict[str, Path] = {}
    for path, name in names.items():
        other = first.setdefault(name, path)
        if other != path:
            raise InputError(f"{other} and {path} would both be {name}.png; rename one of the two")
    return names


def _values(kind: str, spec: data.DatasetSpec) -> np.ndarray | None:
    """What to write for each train id, uint8 [K]; None for the train id itself."""
    official = spec.official_values or range(spec.num_classes)
    return np.array(official, np.uint8) if kind == "official" else None


def _content(path: Path) -> bytes:
    """The bytes of a file; one line that names it if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
