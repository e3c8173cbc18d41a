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
from collabseg_jax.run.record import recorded_config, recorded_spec


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


def run(config: Any, workdir: Any) -> None:
    """`--mode=predict`: label maps and overlays of the pictures that a glob names.

    Args:
      config: as for `record.recorded_config`.
      workdir: of a run.

    Raises:
      InputError: nothing was trained there, or the pictures or a key are not usable.
    """
    config = recorded_config(workdir, config)
    check(config)
    spec = recorded_spec(workdir)
    values = _values(config.predict.encoding, spec)
    pattern = os.path.expanduser(config.predict.images)
    paths = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
    if not paths:
        raise InputError(
            f"config.predict.images={config.predict.images!r} matches no file, expected a glob "
            "such as 'photos/*.jpg'"
        )
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise InputError(f"config.predict.images matches several files named {twice}.*")
    out = Path(config.predict.dir or Path(workdir) / "predictions").expanduser()
    if inside := [path for path in paths if path.parent.resolve() == out.resolve()]:
        raise InputError(
            f"{inside[0]} lies in the folder that label maps are written to, expected pictures "
            "from elsewhere, or another --config.predict.dir"
        )
    out.mkdir(parents=True, exist_ok=True)
    sizes = [image_size(_content(path), str(path)) for path in paths]
    seen = data.plan_buckets([_seen_size(size, config) for size in sizes], config.eval.max_shapes)
    own = data.plan_buckets(sizes, config.eval.max_shapes)
    predict = predictor(workdir, config, config.predict.student)
    progress = Progress(len(paths), "predicting", "picture")
    for path, seen_shape, map_shape in zip(paths, seen, own, strict=True):
        image = decode_image(_content(path), str(path))
        labels = predict(image, seen_shape, map_shape)
        if values is None:
            pictures.save_label_map(out / f"{path.stem}.png", labels, spec.palette)
        else:
            Image.fromarray(values[labels]).save(out / f"{path.stem}.png")
        if config.predict.overlays:
            mixed = pictures.overlay(image, labels, spec.palette)
            Image.fromarray(mixed).save(out / f"{path.stem}_overlay.jpg", quality=92)
        progress.advance()
    progress.close()
    overlays = " and overlays (NAME_overlay.jpg)" if config.predict.overlays else ""
    console(f"{len(paths)} label maps (NAME.png){overlays} in {out}")


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
