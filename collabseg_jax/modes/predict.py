"""Trained students on new pictures: from the command line and from Python."""

import glob
import os
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from PIL import Image

from collabseg_jax import data
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab import step as steps
from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.data.decode import decode_image, image_size
from collabseg_jax.data.transforms import MIN_SIDE, network_size, pad_image, resize_image
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.report import pictures
from collabseg_jax.run import build as experiment
from collabseg_jax.run import record as workdirs
from collabseg_jax.run.console import Progress, console

ENCODINGS = ("train_ids", "official")  # in a label map


def predictor(workdir, config, student: str) -> Callable:
    """A function from uint8 [H, W, 3] to uint8 [H, W] for "cnn", "vit" or "ensemble".

    Args:
      workdir: of a trained run; config: of that run.
    Returns:
      predict(image, seen_shape=None, map_shape=None): the label map at the image's own size.
      `seen_shape` is what the network's input is padded to, `map_shape` what the map is computed
      at before it is cut, so that images of several sizes share programs.
    """
    if student not in OUTPUTS:
        raise unknown("student", student, OUTPUTS)
    spec = workdirs.recorded_spec(workdir)
    mesh = shardings.make_mesh(devices=jax.local_devices()[:1])
    built, state = experiment.restore(workdir, config, num_classes=spec.num_classes, mesh=mesh)
    students = STUDENTS if student == "ensemble" else (student,)
    variables = {name: getattr(state, name).variables for name in students}
    views = steps.jit_views(pair=built.pair, students=students, how=experiment.inference(config))
    label_maps = steps.jit_label_maps(outputs=(student,))

    def predict(image, seen_shape=None, map_shape=None):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"image is {image.dtype} {image.shape}, expected uint8 [height, width, 3] RGB"
            )
        height, width = image.shape[:2]
        seen = _seen_size((height, width), config)
        seen_shape = seen_shape or tuple(max(MIN_SIDE, side) for side in seen)
        padded = pad_image(resize_image(image, seen), seen_shape)
        sizes = np.array([(*seen, height, width)], np.int32)
        maps = label_maps(views(variables, padded[None]), map_shape or (height, width), sizes)
        return np.asarray(maps[student][0, :height, :width])

    return predict


def _seen_size(size: tuple[int, int], config) -> tuple[int, int]:
    """(height, width) at which the network sees a picture of such a size."""
    return network_size(size, short_side=config.eval.short_side, long_side=config.predict.long_side)


def load(workdir, student: str = "ensemble") -> Callable[[np.ndarray], np.ndarray]:
    """A trained student as a function.

    Args:
      workdir: of a run, as `--workdir`.
      student: "cnn", "vit" or "ensemble".
    Returns:
      f(image uint8 [H, W, 3] RGB) -> label map uint8 [H, W].
    Raises:
      ValueError: nothing was trained there, or an unknown student.
    """
    return predictor(
        workdir, workdirs.recorded_config(workdir, ml_collections.ConfigDict()), student
    )


def run(config, workdir) -> None:
    """`--mode=predict`: label maps and overlays of the pictures that a glob names."""
    config = workdirs.recorded_config(workdir, config)
    spec = workdirs.recorded_spec(workdir)
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
    if beside := [path for path in paths if path.parent.resolve() == out.resolve()]:
        raise InputError(
            f"{beside[0]} lies in the folder that label maps are written to, expected pictures "
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
    if kind not in ENCODINGS:
        raise unknown("predict.encoding", kind, ENCODINGS)
    official = spec.official_values or range(spec.num_classes)
    return np.array(official, np.uint8) if kind == "official" else None


def _content(path: Path) -> bytes:
    """The bytes of a file; one line that names it if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
