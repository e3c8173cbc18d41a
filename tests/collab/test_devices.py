"""One program, any devices: the same gradients, parameters and scores on every mesh."""

import numpy as np
import pytest

from collabseg_jax.collab import sharding
from collabseg_jax.errors import InputError
from tests import processes

# name: (processes, devices of each, space)
MESHES = {
    "eight devices": (1, 8, 1),
    "two processes of two": (2, 2, 1),
    "data 4, space 2": (1, 8, 2),
    "space over two processes": (2, 1, 2),
}


def run_steps(folder, name, kind, count, devices, space):
    out = folder / f"{kind} {name}.npz"
    if not out.exists():
        logs = folder / f"{kind} {name}"
        arguments = [f"--out={out}", f"--pair={kind}", f"--space={space}"]
        arguments += ["--float64"] if kind == "real" else []
        started = processes.start(
            "tests.run_steps", arguments, logs=logs, processes=count, devices=devices
        )
        processes.finish(started, logs, timeout=580)
    return np.load(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def difference(one, other, what):
    """Of all arrays whose name begins with `what`: |one - other| / |one|, and max |one - other|."""
    names = [name for name in one.files if name.startswith(what)]
    assert names
    a, b = (np.concatenate([d[n].ravel() for n in names]).astype(np.float64) for d in (one, other))
    return np.linalg.norm(a - b) / np.linalg.norm(a), np.abs(a - b).max()


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("kind", ["tiny", pytest.param("real", marks=pytest.mark.slow)])
def test_a_mesh_equals_one_device(folder, kind, name):
    """`real`: ResNet-18 and MiT-B0, in float64 (tests/run_steps.py says why)."""
    one = run_steps(folder, "one", kind, 1, 1, 1)
    other = run_steps(folder, name, kind, *MESHES[name])
    tolerance = 1e-4 if "space" in name else 1e-5
    for part in ("cnn", "vit", "bridges"):
        gradient = difference(one, other, f"gradient {part}")[0]
        parameter = difference(one, other, f"parameter {part}")[1]
        print(f"{kind}, {name}, {part}: gradient {gradient:.1e}, parameters {parameter:.1e}")
        assert gradient < tolerance and parameter < tolerance
    for key in (key for key in one.files if key.startswith("logs0")):
        np.testing.assert_allclose(one[key], other[key], rtol=tolerance, atol=1e-6, err_msg=key)
    for key in (key for key in one.files if key.startswith("confusion")):
        np.testing.assert_array_equal(one[key], other[key])


def test_rows_lie_where_the_layout_says():
    """Every device gets its rows and its strip of the image, from the process's rows alone."""
    batch = {
        "image": np.arange(8 * 4 * 2 * 3).reshape(8, 4, 2, 3).astype(np.uint8),
        "label": np.arange(8 * 4 * 2).reshape(8, 4, 2).astype(np.uint8),
        "valid": np.arange(8) % 2 == 0,
    }
    for data, space in ((4, 1), (2, 2), (1, 4)):
        mesh = sharding.make_mesh(data, space)
        layout = sharding.Layout(mesh, 8, spatial=True)
        assert layout.rows == list(range(8))
        placed = layout.place(batch)
        for key, value in placed.items():
            np.testing.assert_array_equal(np.asarray(value), batch[key])
        [shape] = {shard.data.shape for shard in placed["image"].addressable_shards}
        assert shape == (8 // data, 4 // space, 2, 3)
        whole = sharding.eval_layout(mesh, batch_size=5)
        assert whole.batch_size == 8
        [shape] = {shard.data.shape for shard in whole.place(batch)["image"].addressable_shards}
        assert shape == (2, 4, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sharding.make_mesh(3), r"data=3, space=1; expected data \* space = 4"),
        (lambda: sharding.make_mesh(space=3), "space=3; expected a space that divides the 4 devi"),
        (lambda: sharding.make_mesh(space=0), "space=0; expected a space"),
        (
            lambda: sharding.train_layout(sharding.make_mesh(), batch_size=6, crop=(32, 32)),
            r"config\.batch_size is 6, expected a positive multiple of the 4 device",
        ),
        (
            lambda: sharding.train_layout(
                sharding.make_mesh(space=4), batch_size=6, crop=(258, 32)
            ),
            r"config\.data\.crop is \(258, 32\), expected a height that config\.mesh\.space = 4",
        ),
        (
            lambda: sharding.train_layout(sharding.make_mesh(space=2), batch_size=6, crop=(96, 32)),
            r"config\.data\.crop is \(96, 32\), expected a height .* at least 128",
        ),
    ],
)
def test_what_cannot_be_split_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
