"""A file as torchvision's MobileNetV2 would save it, with random values."""

import numpy as np
from safetensors.numpy import save_file

# (expansion t, channels c, repeats n, stride s): Sandler et al. 2018, table 2
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
TABLE = (*TABLE, (6, 320, 1, 1))


def blocks():
    """(index of `features`, expansion, channels in, channels out, stride) of the 17 blocks."""
    index, cin = 1, 32
    for t, c, n, s in TABLE:
        for j in range(n):
            yield index, t, cin, c, s if j == 0 else 1
            index, cin = index + 1, c


def tensors(seed=0):
    """{torchvision's name: tensor}: encoder, features.18 and classifier, 314 in all."""
    rng = np.random.default_rng(seed)
    out = {}

    def conv(name, cout, cin, size):
        fan_in = cin * size**2
        out[f"{name}.weight"] = rng.normal(0, (2 / fan_in) ** 0.5, (cout, cin, size, size))

    def norm(name, c):
        out[f"{name}.weight"] = rng.uniform(0.5, 2.0, c)
        out[f"{name}.bias"] = rng.normal(0, 1.5, c)
        out[f"{name}.running_mean"] = rng.normal(0, 0.5, c)
        out[f"{name}.running_var"] = rng.uniform(0.3, 3.0, c)
        out[f"{name}.num_batches_tracked"] = np.asarray(7, np.int64)

    conv("features.0.0", 32, 3, 3)
    norm("features.0.1", 32)
    for index, t, cin, cout, _ in blocks():
        name, i, mid = f"features.{index}.conv", 0, t * cin
        if t != 1:
            conv(f"{name}.0.0", mid, cin, 1)
            norm(f"{name}.0.1", mid)
            i = 1
        conv(f"{name}.{i}.0", mid, 1, 3)
        norm(f"{name}.{i}.1", mid)
        conv(f"{name}.{i + 1}", cout, mid, 1)
        norm(f"{name}.{i + 2}", cout)
    conv("features.18.0", 1280, 320, 1)
    norm("features.18.1", 1280)
    out["classifier.1.weight"] = rng.normal(0, 0.01, (1000, 1280))
    out["classifier.1.bias"] = np.zeros(1000)
    return {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in out.items()}


def encoder(values):
    """The part of `tensors` that the encoder has a place for, 255 tensors."""
    return {
        name: value
        for name, value in values.items()
        if name.startswith("features.")
        and not name.startswith("features.18.")
        and not name.endswith("num_batches_tracked")
    }


def write(path, values):
    save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, path)
    return path
