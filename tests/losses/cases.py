"""One case per loss in objective.TERMS, run by the battery: inputs, options, reference."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from . import reference

SELECTS = ("lower_ce", "lower_ce_correct", "all", "higher_ce")  # `random` has no reference
DIVERGENCES = ("kl", "kl_ln", "mse", "cosine", "relational")


@dataclass(frozen=True)
class Case:
    make: Callable  # seed -> {argument: float32/bool array}, in positional order
    reference: Callable
    options: tuple  # of keyword dictionaries
    learner: str  # the argument that receives the gradient
    twin: str  # the argument it is compared with: equal to the learner, the loss is 0
    hidden: Callable | None = None  # arrays -> {argument: places an ignored pixel hides}
    extra: Callable | None = None  # (arrays, options) -> further keyword arguments
    per_pixel: bool = False  # positions are exchangeable

    def keywords(self, arrays, options):
        more = self.extra(arrays, options) if self.extra else {}
        return {**options, **more}

    def expected(self, arrays, options):
        return self.reference(*arrays.values(), **self.keywords(arrays, options))


def teacher_correct(arrays, options):
    """Keyword arguments that some selects need; fixed pseudo-random, true at most places."""
    select = options.get("select")
    if select == "lower_ce_correct":
        draw = np.random.default_rng(5).random(arrays["valid"].shape)
        return {"teacher_correct": draw < 0.6}
    return {"rng": jax.random.key(11)} if select == "random" else {}


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def labels_side(rng, shape):
    """Both cross-entropies with exact ties, and a mask with holes."""
    student_ce, teacher_ce = (rng.gamma(2.0, size=shape).astype(np.float32) for _ in range(2))
    valid = rng.random(shape) < 0.7
    return student_ce, teacher_ce, valid


def region_inputs(seed, fine=(2, 3, 4), image=(7, 9), channels=5):
    """Odd sizes; in image 0 cell (0, 0) is a tie and cell (0, 1) has no valid pixel."""
    rng = np.random.default_rng(seed)
    student, teacher = 2 * normal(rng, *fine, channels), 2 * normal(rng, *fine, channels)
    student_ce, teacher_ce, valid = labels_side(rng, (fine[0], *image))
    rows = [y for y in range(image[0]) if reference.cell_of(y, image[0], fine[1]) == 0]
    for x in range(image[1]):
        column = reference.cell_of(x, image[1], fine[2])
        if column == 0:
            teacher_ce[0, rows, x] = student_ce[0, rows, x]
            valid[0, rows, x] = True
        if column == 1:
            valid[0, rows, x] = False
    return {
        "student": student,
        "teacher": teacher,
        "student_ce": student_ce,
        "teacher_ce": teacher_ce,
        "valid": valid,
    }


def pixel_inputs(seed, shape=(2, 5, 7), classes=4):
    rng = np.random.default_rng(seed)
    student, teacher = 2 * normal(rng, *shape, classes), 2 * normal(rng, *shape, classes)
    student_ce, teacher_ce, valid = labels_side(rng, shape)
    teacher_ce[0, :2], valid[0, :2] = student_ce[0, :2], True
    return {
        "student": student,
        "teacher": teacher,
        "student_ce": student_ce,
        "teacher_ce": teacher_ce,
        "valid": valid,
    }


def dml_inputs(seed):
    arrays = pixel_inputs(seed)
    return {name: arrays[name] for name in ("student", "teacher", "valid")}


def hfd_inputs(seed):
    rng = np.random.default_rng(seed)
    return {"borrowed": 2 * normal(rng, 2, 3, 4, 5), "native": 2 * normal(rng, 2, 3, 4, 5)}


def ignored_pixels(arrays):
    return {name: ~arrays["valid"] for name in arrays if name != "valid"}


def ignored_cells(arrays):
    valid = arrays["valid"]
    empty = ~reference.cell_mean(np.zeros(valid.shape), valid, arrays["student"].shape[1:3])[1]
    return {"student": empty, "teacher": empty, "student_ce": ~valid, "teacher_ce": ~valid}


CASES = {
    "hfd": Case(
        make=hfd_inputs,
        reference=reference.hfd,
        options=({}, *({"divergence": d} for d in DIVERGENCES)),
        learner="borrowed",
        twin="native",
    ),
    "bsd_region": Case(
        make=region_inputs,
        reference=reference.bsd_region,
        options=(
            {},
            *({"divergence": d} for d in DIVERGENCES),
            *({"select": s} for s in SELECTS),
            {"divergence": "relational", "select": "higher_ce"},
            {"divergence": "cosine", "select": "lower_ce_correct"},
        ),
        learner="student",
        twin="teacher",
        hidden=ignored_cells,
        extra=teacher_correct,
    ),
    "bsd_pixel": Case(
        make=pixel_inputs,
        reference=reference.bsd_pixel,
        options=(
            {},
            {"temperature": 3.0},
            *({"select": s} for s in SELECTS),
        ),
        learner="student",
        twin="teacher",
        hidden=ignored_pixels,
        extra=teacher_correct,
        per_pixel=True,
    ),
    "dml": Case(
        make=dml_inputs,
        reference=reference.dml,
        options=({}, {"temperature": 3.0}),
        learner="student",
        twin="teacher",
        hidden=ignored_pixels,
        per_pixel=True,
    ),
}
