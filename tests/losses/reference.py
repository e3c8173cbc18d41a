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


def valid_cells(valid, grid):
    """A cell has something where any of its pixels is valid."""
    return cell_mean(np.zeros(np.shape(valid)), valid, grid)[1]


def cell_class(labels, valid, grid):
    """Most frequent valid class of each cell, the lowest of equals; -1 for none."""
    (h, w), (n, height, width) = grid, valid.shape
    out = np.full((n, h, w), -1)
    for b, i, j in np.ndindex(n, h, w):
        seen = [
            int(labels[b, y, x])
            for y in range(height)
            for x in range(width)
            if valid[b, y, x] and (cell_of(y, height, h), cell_of(x, width, w)) == (i, j)
        ]
        if seen:
            out[b, i, j] = max(sorted(set(seen)), key=seen.count)
    return out


def together(student, teacher, valid):
    """Both maps on the coarser grid, as lists of vectors by place: {(b, i, j): (s, t)}."""
    grid = tuple(np.minimum(np.shape(student)[1:3], np.shape(teacher)[1:3]))
    filled = valid_cells(valid, grid)
    pooled = []
    for x in (student, teacher):
        here = valid_cells(valid, np.shape(x)[1:3])
        channels = [cell_mean(np.where(here, c, 0), here, grid) for c in np.moveaxis(x, -1, 0)]
        pooled.append(np.stack([mean for mean, _ in channels], -1))
        filled = filled & channels[0][1]
    places = [tuple(p) for p in np.argwhere(filled)]
    return {p: tuple(x[p] for x in pooled) for p in places}, grid


def similarity(a, b):
    return (a @ b) / np.sqrt((a @ a + 1e-12) * (b @ b + 1e-12))


def kl_of(scores_s, scores_t):
    p, q = (np.exp(log_softmax(np.asarray(x))) for x in (scores_t, scores_s))
    return float((p * np.log(p / q)).sum())


def kd_mutual(student, teacher, valid, *, temperature=1.0):
    return dml(
        student, teacher, valid_cells(valid, np.shape(student)[1:3]), temperature=temperature
    )


def kdcl(
    student,
    teacher,
    student_ce,
    teacher_ce,
    labels,
    valid,
    *,
    ensemble="naive",
    temperature=1.0,
    anchor=None,
):
    """`anchor` is the student in the ensemble, which is stopped there; itself by default."""
    total, count = 0.0, 0
    for at in zip(*np.nonzero(valid), strict=True):
        s, t, y = f64((student if anchor is None else anchor)[at]), f64(teacher[at]), labels[at]
        if ensemble == "naive":
            target = t if teacher_ce[at] < student_ce[at] else s
        elif ensemble == "mean":
            target = 0.5 * s + 0.5 * t
        else:
            target = np.array([min(s[k] - s[y], t[k] - t[y]) for k in range(len(s))])
        total += temperature**2 * kl_of(f64(student[at]) / temperature, target / temperature)
        count += 1
    return total / max(1, count)


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def dist(student, teacher, valid, *, temperature=1.0, inter=1.0, intra=1.0):
    valid = np.asarray(valid)
    p, q = (np.exp(log_softmax(f64(x)[valid] / temperature)) for x in (student, teacher))
    if not len(p):
        return 0.0
    by_pixel = np.mean([1 - pearson(a, b) for a, b in zip(p, q, strict=True)])
    by_class = np.mean([1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter * by_pixel + intra * by_class)


def cwd(student, teacher, valid, *, temperature=4.0):
    """sum over channels and images of KL over the image's positions, / (C * images)."""
    student, teacher = f64(student), f64(teacher)
    where = valid_cells(valid, student.shape[1:3])
    values = []
    for b in range(len(student)):
        if where[b].any():
            for c in range(student.shape[-1]):
                s, t = student[b, ..., c][where[b]], teacher[b, ..., c][where[b]]
                values.append(temperature**2 * kl_of(s / temperature, t / temperature))
    return float(np.mean(values)) if values else 0.0


def at(student, teacher, valid):
    maps, _ = together(f64(student), f64(teacher), np.asarray(valid))
    total = 0.0
    for b in range(len(student)):
        energy = np.array([[(v**2).mean() for v in pair] for p, pair in maps.items() if p[0] == b])
        if len(energy):
            energy = energy / np.linalg.norm(energy, axis=0)
            total += ((energy[:, 0] - energy[:, 1]) ** 2).sum()
    return total / max(1, len(maps))


def fitnet(student, teacher, valid):
    where = valid_cells(valid, np.shape(student)[1:3])
    return masked_mean(((f64(student) - f64(teacher)) ** 2).mean(-1), where)


def mgd(generated, teacher, valid):
    where = valid_cells(valid, np.shape(teacher)[1:3])
    squares = ((f64(generated) - f64(teacher)) ** 2).sum(-1)
    sums = [squares[b][where[b]].sum() for b in range(len(where)) if where[b].any()]
    return sum(sums) / max(1, len(sums))


def skd(student, teacher, valid, *, grid=2):
    cells = tuple(np.minimum(grid, np.minimum(np.shape(student), np.shape(teacher))[1:3]))
    peaks = []
    for x in (f64(student), f64(teacher)):
        here, highest = valid_cells(valid, x.shape[1:3]), {}
        for b, i, j in zip(*np.nonzero(here), strict=True):
            cell = b, cell_of(i, x.shape[1], cells[0]), cell_of(j, x.shape[2], cells[1])
            highest[cell] = np.maximum(highest.get(cell, -np.inf), x[b, i, j])
        peaks.append(highest)
    ours, theirs = peaks
    rows = []
    for i in ours.keys() & theirs.keys():
        others = [j for j in ours.keys() & theirs.keys() if j[0] == i[0]]
        rows.append(
            np.mean(
                [
                    (similarity(ours[i], ours[j]) - similarity(theirs[i], theirs[j])) ** 2
                    for j in others
                ]
            )
        )
    return float(np.mean(rows)) if rows else 0.0


def ifvd(student, teacher, labels, valid, *, num_classes):
    maps, grid = together(f64(student), f64(teacher), np.asarray(valid))
    classes = cell_class(labels, valid, grid)
    total = 0.0
    for p, pair in maps.items():
        same = [q for q in maps if q[0] == p[0] and classes[q] == classes[p]]
        ours, theirs = (
            similarity(pair[k], np.mean([maps[q][k] for q in same], axis=0)) for k in (0, 1)
        )
        total += (ours - theirs) ** 2
    return total / max(1, len(maps))


def cirkd(student, teacher, labels, valid, *, num_classes, temperature=0.1, pixel=1.0, region=0.1):
    maps, grid = together(f64(student), f64(teacher), np.asarray(valid))
    classes = cell_class(labels, valid, grid)
    ours, theirs = ({p: unit(pair[k]) for p, pair in maps.items()} for k in (0, 1))

    def centres(x):
        groups = {}
        for p, v in x.items():
            groups.setdefault((p[0], classes[p]), []).append(v)
        return [unit(np.mean(groups[key], axis=0)) for key in sorted(groups)]

    def row(p, x, others):
        return [x[p] @ o / temperature for o in others]

    by_pixel, by_region = [], []
    for p in maps:
        for image in {q[0] for q in maps}:
            s, t = ([x[q] for q in maps if q[0] == image] for x in (ours, theirs))
            by_pixel.append(kl_of(row(p, ours, s), row(p, theirs, t)))
        by_region.append(kl_of(row(p, ours, centres(ours)), row(p, theirs, centres(theirs))))
    if not by_pixel:
        return 0.0
    return pixel * np.mean(by_pixel) + region * np.mean(by_region)


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
