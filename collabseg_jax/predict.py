"""Trained students on new pictures: from the command line and from Python."""

import glob
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import ml_collections
import numpy as np
from PIL import Image

from collabseg_jax import data, experiment, pictures
from collabseg_jax import sharding as shardings
from collabseg_jax import step as steps
from collabseg_jax import workdir as workdirs
from collabseg_jax.data.decode import decode_image
from collabseg_jax.data.transforms import pad_to
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.evaluate import OUTPUTS
from collabseg_jax.pair import STUDENTS
from collabseg_jax.report import Progress, console


def predictor(workdir, config, student: str) -> Callable:
    """A function from uint8 [H, W, 3] to uint8 [H, W] for "cnn", "vit" or "ensemble".

    Args:
      workdir: of a trained run; config: of that run.
    Returns:
      predict(image, shape=None): the label map at the image's own size; `shape` is what the
      network's input is padded to, so that images of several sizes share one program.
    """
    if student not in OUTPUTS:
        raise unknown("student", student, OUTPUTS)
    spec = workdirs.recorded_spec(workdir)
    mesh = shardings.make_mesh(devices=jax.local_devices()[:1])
    built, state = experiment.restore(workdir, config, num_classes=spec.num_classes, mesh=mesh)
    needed = STUDENTS if student == "ensemble" else (student,)
    variables = {name: getattr(state, name).variables for name in needed}
    segment = steps.jit_segment(pair=built.pair, outputs=(student,))
    long_side = config.predict.long_side

    def predict(image, shape=None):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"image is {image.dtype} {image.shape}, expected uint8 [height, width, 3] RGB"
            )
        height, width = image.shape[:2]
        small = cv2.resize(
            image, network_size((height, width), long_side)[::-1], interpolation=cv2.INTER_AREA
        )
        shape = shape or small.shape[:2]
        padded, _ = pad_to(small, np.zeros(small.shape[:2], np.uint8), shape)
        labels = np.asarray(segment(variables, padded[None])[student][0])
        labels = labels[: small.shape[0], : small.shape[1]]
        return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)

    return predict


def network_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) shrunk so that the longer side is at most `long_side`; never enlarged.

    A side is at least 32, the least that the Mix Transformer takes.
    """
    scale = min(1.0, long_side / max(size))
    return tuple(max(experiment.MIN_CROP, round(side * scale)) for side in size)


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
    paths = [Path(p) for p in sorted(glob.glob(config.predict.images, recursive=True))]
    if not paths:
        raise InputError(
            f"config.predict.images={config.predict.images!r} matches no file, expected a glob "
            "such as 'photos/*.jpg'"
        )
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise InputError(f"config.predict.images matches several files named {twice}.*")
    sizes = []
    for path in paths:
        sizes.append(network_size(read(path).shape[:2], config.predict.long_side))
    shapes = data.plan_buckets(sizes, config.eval.max_shapes)
    predict = predictor(workdir, config, config.predict.student)
    spec = workdirs.recorded_spec(workdir)
    out = Path(config.predict.dir or Path(workdir) / "predictions")
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(len(paths), "predicting", "picture")
    for path, shape in zip(paths, shapes, strict=True):
        image = read(path)
        labels = predict(image, shape)
        pictures.save_label_map(out / f"{path.stem}.png", labels, spec.palette)
        mixed = pictures.overlay(image, labels, spec.palette)
        Image.fromarray(mixed).save(out / f"{path.stem}_overlay.jpg", quality=92)
        progress.advance()
    progress.close()
    console(f"{len(paths)} label maps (NAME.png) and overlays (NAME_overlay.jpg) in {out}")


def read(path: Path) -> np.ndarray:
    """A picture as uint8 [H, W, 3] RGB; one line that names it if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(content, str(path))
