"""The operations in float64 NumPy, element by element from their definitions."""

import itertools
import math

import numpy as np


def conv(x, kernel, stride, dilation, padding):
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    reach = dilation * (size - 1) + 1
    rows, columns = ((n - reach) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for r, c, i, j in itertools.product(range(rows), range(columns), range(size), range(size)):
        y[:, r, c] += x[:, r * stride + i * dilation, c * stride + j * dilation] @ kernel[i, j]
    return y


def depthwise(x, kernel, stride, dilation):
    full = np.einsum("ijc,cd->ijcd", kernel[:, :, 0], np.eye(x.shape[-1]))
    return conv(x, full, stride, dilation, dilation)


def max_pool(x):
    rows, columns = (math.ceil(n / 2) for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, x.shape[3]))
    for r, c in itertools.product(range(rows), range(columns)):
        window = x[:, max(2 * r - 1, 0) : 2 * r + 2, max(2 * c - 1, 0) : 2 * c + 2]
        y[:, r, c] = window.max((1, 2))
    return y


def resize(x, shape, align_corners=False):
    height, width = x.shape[1:3]
    y = np.zeros((x.shape[0], *shape, x.shape[3]))

    def between(o, length, size):
        at = min(max((o + 0.5) * length / size - 0.5, 0), length - 1)
        if align_corners:  # the first output reads the first input, the last the last
            at = o * (length - 1) / (size - 1) if size > 1 else 0
        low = math.floor(at + 1e-12)
        return low, min(low + 1, length - 1), at - low

    for r, c in itertools.product(*map(range, shape)):
        top, bottom, down = between(r, height, shape[0])
        left, right, across = between(c, width, shape[1])
        upper = x[:, top, left] * (1 - across) + x[:, top, right] * across
        lower = x[:, bottom, left] * (1 - across) + x[:, bottom, right] * across
        y[:, r, c] = upper * (1 - down) + lower * down
    return y


def attention(q, k, v):
    y = np.zeros(q.shape)
    for b, n, h in itertools.product(*map(range, q.shape[:3])):
        scores = k[b, :, h] @ q[b, n, h] / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        y[b, n, h] = weights @ v[b, :, h] / weights.sum()
    return y


def gelu(x):
    return np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))(x)
