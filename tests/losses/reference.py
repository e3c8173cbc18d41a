"""Float64 NumPy references of the losses, written from the formulas alone (METHOD.md).

Loops are kept where they read like the formula. Every function returns float64.
Masked places are skipped, never multiplied by zero.
"""

import numpy as np

LIMIT = 32  # relational maps are pooled to at most this many cells along an axis


def f64(x):
    return np.asarray(x, dtype=np.float64)


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits, labels, *, ignore_label=255):
    logits, labels = f64(logits), np.asarray(labels).astype(np.int64)
    ce, valid = np.zeros(labels.shape), labels != ignore_label
    for place in zip(*np.nonzero(valid), strict=True):
        ce[place] = -log_softmax(logits[place])[labels[place]]
    return ce, valid


def masked_mean(values, where):
    chosen = f64(values)[np.asarray(where)]
    return chosen.sum() / max(1, chosen.size)


def cell_of(pixel, pixels, cells):
    return (pixel * cells) // pixels


def cell_mean(values, where, grid):
    values, where, (h, w) = f64(values), np.asarray(where), grid
    n, height, width = values.shape
    total, count = np.zeros((n, h, w)), np.zeros((n, h, w))
    for b in range(n):
        for y in range(height):
            for x in range(width):
                if where[b, y, x]:
                    cell = b, cell_of(y, height, h), cell_of(x, width, w)
                    total[cell] += values[b, y, x]
                    count[cell] += 1
    return np.where(count > 0, total / np.maximum(count, 1), 0.0), count > 0


def kl(student, teacher, *, temperature=1.0):
    log_q = log_softmax(f64(student) / temperature)
    log_p = log_softmax(f64(teacher) / temperature)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def standardise(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)


def kl_ln(student, teacher):
    return kl(standardise(f64(student)), standardise(f64(teacher)))


def mse(student, teacher):
    return ((f64(student) - f64(teacher)) ** 2).mean(axis=-1)


def unit(x):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-12)


def cosine(student, teacher):
    return 1 - (unit(f64(student)) * unit(f64(teacher))).sum(axis=-1)


def relational(student, teacher, *, valid=None):
    """Value at each valid position (0 elsewhere): mean over the image's valid positions j."""
    student, teacher = f64(student), f64(teacher)
    valid = np.ones(student.shape[:3], bool) if valid is None else np.asarray(valid)
    out = np.zeros(valid.shape)
    for b in range(len(out)):
        s, t = unit(student[b][valid[b]]), unit(teacher[b][valid[b]])  # [n, C], [n, C']
        if len(s):
            out[b][valid[b]] = ((s @ s.T - t @ t.T) ** 2).mean(axis=1)
    return out


def pool(features, where, grid):
    """Mean of the features [B,h,w,C] over the fine cells in `where`, onto a coarser grid."""
    channels = [cell_mean(c, where, grid)[0] for c in np.moveaxis(f64(features), -1, 0)]
    return np.stack(channels, axis=-1)


def small_grid(features):
    return tuple(min(LIMIT, n) for n in np.shape(features)[1:3])


PLAIN = {"kl": kl, "kl_ln": kl_ln, "mse": mse, "cosine": cosine}


def hfd(borrowed, native, *, divergence="cosine"):
    if divergence != "relational":
        return PLAIN[divergence](borrowed, native).mean()
    grid, every = small_grid(borrowed), np.ones(np.shape(borrowed)[:3], bool)
    return relational(pool(borrowed, every, grid), pool(native, every, grid)).mean()


def chosen(select, student_ce, teacher_ce, valid, correct):
    """Where the teacher teaches: the places of one direction."""
    if select == "all":
        return valid
    if select == "higher_ce":
        return valid & (teacher_ce > student_ce)
    lower = valid & (teacher_ce < student_ce)
    if select == "lower_ce_correct":
        return lower & correct
    assert select == "lower_ce", select
    return lower


def bsd_region(
    student,
    teacher,
    student_ce,
    teacher_ce,
    valid,
    *,
    divergence="kl_ln",
    select="lower_ce",
    teacher_correct=None,
):
    student, teacher, valid = f64(student), f64(teacher), np.asarray(valid)
    grid = student.shape[1:3]
    if divergence == "relational" and small_grid(student) != grid:
        filled = cell_mean(np.zeros(valid.shape), valid, grid)[1]  # fine cells with a valid pixel
        grid = small_grid(student)
        student, teacher = pool(student, filled, grid), pool(teacher, filled, grid)
    e_student, has_valid = cell_mean(student_ce, valid, grid)
    e_teacher, _ = cell_mean(teacher_ce, valid, grid)
    correct = None
    if teacher_correct is not None:
        correct = cell_mean(f64(teacher_correct), valid, grid)[0] > 0.5
    where = chosen(select, e_student, e_teacher, has_valid, correct)
    if divergence == "relational":
        return masked_mean(relational(student, teacher, valid=has_valid), where)
    return sum(PLAIN[divergence](student[where], teacher[where])) / max(1, where.sum())


def bsd_pixel(
    student,
    teacher,
    student_ce,
    teacher_ce,
    valid,
    *,
    temperature=1.0,
    select="lower_ce",
    teacher_correct=None,
):
    valid = np.asarray(valid)
    ours, theirs = (np.where(valid, f64(ce), 0) for ce in (student_ce, teacher_ce))
    where = chosen(select, ours, theirs, valid, teacher_correct)
    value = kl(f64(student)[where], f64(teacher)[where], temperature=temperature)
    return value.sum() / max(1, where.sum())


def dml(student, teacher, valid, *, temperature=1.0):
    valid = np.asarray(valid)
    value = kl(f64(student)[valid], f64(teacher)[valid], temperature=temperature)
    return value.sum() / max(1, valid.sum())


def finite_difference(fn, x, step=1e-5):
    """Central differences of the scalar fn(x) at every entry of x, in float64."""
    x = f64(x).copy()
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        middle = x[i]
        x[i] = middle + step
        above = fn(x)
        x[i] = middle - step
        gradient[i] = (above - fn(x)) / (2 * step)
        x[i] = middle
    return gradient
