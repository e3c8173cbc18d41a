"""One case for each loss in `terms.TERMS`, run by the battery: inputs, options, reference."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from . import reference

CLASSES = 3
SELECTS = ("lower_ce", "lower_ce_correct", "all", "higher_ce")  # `random` has no reference
DIVERGENCES = ("kl", "kl_ln", "mse", "cosine", "relational")


@dataclass(frozen=True)
class Case:
    make: Callable  # seed -> {argument: float32/int/bool array}, in positional order
    reference: Callable
    options: tuple  # of keyword dictionaries
    learner: str  # the argument that receives the gradient
    twin: str  # the argument it is compared with: equal to the learner, the loss is 0
    # What the mean divides by: (arrays, options) -> number; None where images or the two halves
    # of a batch are related to each other, so that halves do not add up.
    count: Callable | None
    hidden: Callable | None = None  # arrays -> {argument: places an ignored pixel hides}
    extra: Callable | None = None  # (arrays, options) -> further keyword arguments
    fixed: tuple = ()  # keyword arguments that are the same in all calls
    per_pixel: bool = False  # positions are exchangeable
    aligned: Callable | None = None  # like make, all grids divide the image: may be padded
    anchored: bool = False  # the learner is in the target too, stopped: the reference's `anchor`

    def keywords(self, arrays, options):
        more = self.extra(arrays, options) if self.extra else {}
        return {**options, **dict(self.fixed), **more}

    def expected(self, arrays, options, **more):
        return self.reference(*arrays.values(), **self.keywords(arrays, options), **more)


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


def some(make, *names, **options):
    """`make` with only these of its arrays."""

    def made(seed):
        arrays = make(seed, **options)
        return {name: arrays[name] for name in names}

    return made


def labelled(arrays, seed):
    """With labels before the mask, 255 where it does not hold."""
    valid = arrays.pop("valid")
    labels = np.random.default_rng(seed).integers(0, CLASSES, valid.shape)
    return {**arrays, "labels": np.where(valid, labels, 255).astype(np.uint8), "valid": valid}


def kdcl_inputs(seed):
    return labelled(pixel_inputs(seed, classes=CLASSES), seed + 100)


def hfd_inputs(seed):
    rng = np.random.default_rng(seed)
    return {"borrowed": 2 * normal(rng, 2, 3, 4, 5), "native": 2 * normal(rng, 2, 3, 4, 5)}


def two_grids(seed, image=(8, 8)):
    """F4 of both, of two grids and channel counts; each grid has empty cells in image 0."""
    rng = np.random.default_rng(seed)
    valid = rng.random((2, *image)) < 0.6
    valid[0, : image[0] // 2, : image[1] // 2] = False
    return {
        "student": 2 * normal(rng, 2, 4, 4, 3),
        "teacher": 2 * normal(rng, 2, 2, 3, 4),
        "valid": valid,
    }


def two_grids_labelled(seed, **options):
    return labelled(two_grids(seed, **options), seed + 100)


def ignored(arrays):
    """Of each array the positions of its own grid without a valid pixel."""
    valid = arrays["valid"]
    return {
        name: ~reference.valid_cells(valid, value.shape[1:3])
        for name, value in arrays.items()
        if name != "valid"
    }


def positions(arrays, options):
    return arrays["native"][..., 0].size


def pixels(arrays, options):
    return arrays["valid"].sum()


def cells(arrays, options):
    return reference.valid_cells(arrays["valid"], arrays["student"].shape[1:3]).sum()


def shared_cells(arrays, options):
    return len(reference.together(arrays["student"], arrays["teacher"], arrays["valid"])[0])


def pooled_cells(arrays, options):
    n = options.get("grid", 2)
    grid = tuple(np.minimum(n, arrays["teacher"].shape[1:3]))
    student, teacher = (
        reference.cell_mean(np.zeros(here.shape), here, grid)[1]
        for here in (
            reference.valid_cells(arrays["valid"], arrays[k].shape[1:3])
            for k in ("student", "teacher")
        )
    )
    return (student & teacher).sum()


def images(arrays, options):
    return arrays["valid"].any((1, 2)).sum()


def taught(arrays, options, grid=None):
    """How many places go this way; regions if a grid is given."""
    ours, theirs, where = arrays["student_ce"], arrays["teacher_ce"], arrays["valid"]
    correct = teacher_correct(arrays, options).get("teacher_correct")
    if grid:
        correct = None if correct is None else reference.cell_mean(correct, where, grid)[0] > 0.5
        theirs, _ = reference.cell_mean(theirs, where, grid)
        ours, where = reference.cell_mean(ours, where, grid)
    return reference.chosen(options.get("select", "lower_ce"), ours, theirs, where, correct).sum()


def regions(arrays, options):
    return taught(arrays, options, arrays["student"].shape[1:3])


SAME_GRID = some(region_inputs, "student", "teacher", "valid", channels=3)
SAME_GRID_ALIGNED = some(region_inputs, "student", "teacher", "valid", channels=3, image=(6, 8))
LOGITS = some(pixel_inputs, "student", "teacher", "valid")
WITH_CLASSES = (("num_classes", CLASSES),)
TEMPERATURES = ({}, {"temperature": 3.0})
SIDES = {"learner": "student", "twin": "teacher", "hidden": ignored}

CASES = {
    "hfd": Case(
        make=hfd_inputs,
        reference=reference.hfd,
        options=({}, *({"divergence": d} for d in DIVERGENCES)),
        learner="borrowed",
        twin="native",
        count=positions,
    ),
    "bsd_region": Case(
        make=region_inputs,
        aligned=functools.partial(region_inputs, image=(6, 8)),
        reference=reference.bsd_region,
        options=(
            {},
            *({"divergence": d} for d in DIVERGENCES),
            *({"select": s} for s in SELECTS),
            {"divergence": "relational", "select": "higher_ce"},
            {"divergence": "cosine", "select": "lower_ce_correct"},
        ),
        extra=teacher_correct,
        count=regions,
        **SIDES,
    ),
    "bsd_pixel": Case(
        make=pixel_inputs,
        aligned=pixel_inputs,
        reference=reference.bsd_pixel,
        options=(*TEMPERATURES, *({"select": s} for s in SELECTS)),
        extra=teacher_correct,
        count=taught,
        per_pixel=True,
        **SIDES,
    ),
    "dml": Case(
        make=LOGITS,
        aligned=LOGITS,
        reference=reference.dml,
        options=TEMPERATURES,
        count=pixels,
        per_pixel=True,
        **SIDES,
    ),
    "kd_mutual": Case(
        make=SAME_GRID,
        aligned=SAME_GRID_ALIGNED,
        reference=reference.kd_mutual,
        options=TEMPERATURES,
        count=cells,
        **SIDES,
    ),
    "kdcl": Case(
        make=kdcl_inputs,
        aligned=kdcl_inputs,
        reference=reference.kdcl,
        options=(
            *({"ensemble": e} for e in ("naive", "mean", "min_logit")),
            {"ensemble": "mean", "temperature": 3.0},
        ),
        count=pixels,
        per_pixel=True,
        anchored=True,
        **SIDES,
    ),
    "dist": Case(
        make=LOGITS,
        aligned=LOGITS,
        reference=reference.dist,
        options=(*TEMPERATURES, {"intra": 0.0}, {"inter": 0.0, "intra": 2.0}),
        count=None,  # a class's correlation is over all pixels of the batch
        per_pixel=True,
        **SIDES,
    ),
    "cwd": Case(
        make=SAME_GRID,
        aligned=SAME_GRID_ALIGNED,
        reference=reference.cwd,
        options=({}, {"temperature": 1.0}),
        count=images,
        **SIDES,
    ),
    "at": Case(
        make=two_grids,
        aligned=functools.partial(two_grids, image=(8, 12)),
        reference=reference.at,
        options=({},),
        count=shared_cells,
        **SIDES,
    ),
    "fitnet": Case(
        make=SAME_GRID,
        aligned=SAME_GRID_ALIGNED,
        reference=reference.fitnet,
        options=({},),
        count=cells,
        **SIDES,
    ),
    "mgd": Case(
        make=SAME_GRID,
        aligned=SAME_GRID_ALIGNED,
        reference=reference.mgd,
        options=({},),
        count=images,
        **SIDES,
    ),
    "skd": Case(
        make=two_grids,
        reference=reference.skd,
        options=({}, {"grid": 3}),
        count=pooled_cells,
        **SIDES,
    ),
    "ifvd": Case(
        make=two_grids_labelled,
        aligned=functools.partial(two_grids_labelled, image=(8, 12)),
        reference=reference.ifvd,
        options=({},),
        fixed=WITH_CLASSES,
        count=shared_cells,
        **SIDES,
    ),
    "cirkd": Case(
        make=two_grids_labelled,
        aligned=functools.partial(two_grids_labelled, image=(8, 12)),
        reference=reference.cirkd,
        options=({"temperature": 0.5}, {"region": 0.0}, {"pixel": 0.0, "region": 1.0}),
        fixed=WITH_CLASSES,
        count=None,  # relates the images of the batch to each other
        **SIDES,
    ),
}

# Losses that depend on single pixels: the scalar, and the values before the mean.
FACES = {name: f"{name}_map" for name in ("bsd_pixel", "dml", "kdcl")}
CASES |= {unreduced: CASES[name] for name, unreduced in FACES.items()}
