"""The layers of the students in float64 NumPy, from their definitions; NHWC and HWIO."""

import itertools
import math

import numpy as np


def conv(x, kernel, stride=1, dilation=1, padding=None):
    """Each output is the sum over taps of a pixel times a matrix; torch's symmetric padding."""
    size = kernel.shape[0]
    padding = dilation * (size - 1) // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    reach = dilation * (size - 1) + 1
    rows, columns = ((n - reach) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i, j in itertools.product(range(size), repeat=2):
        top, left = i * dilation, j * dilation
        seen = x[:, top : top + rows * stride : stride, left : left + columns * stride : stride]
        y += seen[:, :rows, :columns] @ kernel[i, j]
    return y


def depthwise(x, kernel, stride=1, dilation=1):
    """Channel by channel."""
    channels = [
        conv(x[..., c : c + 1], kernel[..., c : c + 1], stride, dilation)
        for c in range(x.shape[-1])
    ]
    return np.concatenate(channels, -1)


def linear(x, p):
    return x @ p["kernel"][0, 0] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def batch_norm(x, scale, bias, mean, var, eps=1e-5):
    return (x - mean) / np.sqrt(var + eps) * scale + bias


def layer_norm(x, p, eps):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * p["scale"] + p["bias"]


def attention(q, k, v, heads):
    """q [N, C], k and v [M, C] of one image."""
    out = np.zeros_like(q)
    size = q.shape[-1] // heads
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
    return out


def max_pool(x):
    """3x3, stride 2, padded by one."""
    rows, columns = (math.ceil(n / 2) for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, x.shape[3]))
    for r, c in itertools.product(range(rows), range(columns)):
        window = x[:, max(2 * r - 1, 0) : 2 * r + 2, max(2 * c - 1, 0) : 2 * c + 2]
        y[:, r, c] = window.max((1, 2))
    return y


def resize(x, shape):
    """Bilinear at half-pixel centres, held within the map."""

    def matrix(length, size):
        m = np.zeros((size, length))
        for o in range(size):
            at = min(max((o + 0.5) * length / size - 0.5, 0), length - 1)
            low = math.floor(at)
            m[o, low] += 1 - (at - low)
            m[o, min(low + 1, length - 1)] += at - low
        return m

    rows, columns = matrix(x.shape[1], shape[0]), matrix(x.shape[2], shape[1])
    return np.einsum("oh,pw,bhwc->bopc", rows, columns, x)


def conv_norm(x, params, stats, stride=1, dilation=1, activation=relu):
    """Convolution (depthwise if the kernel has one input channel for many), BatchNorm, act."""
    kernel = params["conv"]["kernel"]
    of = depthwise if kernel.shape[2] == 1 < x.shape[-1] else conv
    x = of(x, kernel, stride, dilation)
    return activation(batch_norm(x, **params["norm"], **stats["norm"]))
