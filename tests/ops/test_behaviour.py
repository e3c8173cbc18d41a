"""What the case table cannot say: choice of formulation, ties, extremes, refusals, sharding."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import ops
from tests import quick

both = pytest.mark.parametrize("formulation", ["cpu", "plain"])


def test_default_follows_the_backend(monkeypatch):
    assert ops.formulation() == ("cpu" if jax.default_backend() == "cpu" else "plain")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ops.formulation() == "plain"


def test_using_is_scoped_nested_and_per_thread():
    before = ops.formulation()
    seen = []
    with ops.using("plain"):
        with ops.using("cpu"):
            assert ops.formulation() == "cpu"
        assert ops.formulation() == "plain"
        thread = threading.Thread(target=lambda: seen.append(ops.formulation()))
        thread.start()
        thread.join()
    assert ops.formulation() == before
    assert seen == [before]
    with pytest.raises(ValueError, match=r"'gpu'.*cpu, plain"):
        ops.using("gpu")


def test_a_jitted_function_is_traced_once_per_formulation():
    traced = []

    @jax.jit
    def f(x):
        traced.append(ops.formulation())
        return x

    for name in ("cpu", "plain", "cpu", "plain"):
        with ops.using(name):
            f(jnp.ones(()))
    assert traced == ["cpu", "plain"]


def test_plain_depthwise_is_one_grouped_convolution():
    x, kernel = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 1, 8))
    with ops.using("plain"):
        assert "feature_group_count=8" in str(jax.make_jaxpr(ops.depthwise_conv)(x, kernel))
    with ops.using("cpu"):
        assert "conv_general" not in str(jax.make_jaxpr(ops.depthwise_conv)(x, kernel))


@pytest.mark.parametrize(
    ("shape", "cout", "convolutions", "products"),
    [
        ((2, 16, 16, 512), 128, 0, 9),  # wide: a product for each tap
        ((2, 16, 16, 256), 128, 1, 0),  # small: as it is
        ((3, 64, 64, 64), 64, 3, 0),  # 2 MiB an image: by images
        ((1, 128, 128, 64), 64, 4, 0),  # 8 MiB an image: strips of rows
        ((24, 64, 64, 128), 64, 12, 0),  # no more than 16 pieces
        ((3, 512, 512, 64), 64, 15, 0),
    ],
)
def test_weight_gradients_by_size(shape, cout, convolutions, products):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], cout), jnp.float32)

    def count(name):
        with ops.using(name):
            text = jax.jit(jax.grad(lambda k, x: jnp.sum(ops.conv(x, k) ** 2))).lower(kernel, x)
        text = text.as_text()  # of what is needed: not the gradient of the input
        return text.count("stablehlo.convolution") - 1, text.count("stablehlo.dot_general")

    assert count("plain") == (1, 0)
    assert count("cpu") == (convolutions, products)


def test_resize_by_hand():
    x = jnp.array([[0.0, 4.0], [8.0, 12.0]]).reshape(1, 2, 2, 1)
    expected = [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    for name in ("cpu", "plain"):
        with ops.using(name):
            np.testing.assert_allclose(ops.resize_bilinear(x, (4, 4))[0, ..., 0], expected)
            aligned = ops.resize_bilinear(x, (4, 3), align_corners=True)[0, ..., 0]
            rows = [[0, 2, 4], [8 / 3, 14 / 3, 20 / 3], [16 / 3, 22 / 3, 28 / 3], [8, 10, 12]]
            np.testing.assert_allclose(aligned, rows, rtol=1e-6)
    assert ops.resize_bilinear(x, (2, 2)) is x


@jax.jit
def _pool_gradient(x):
    return jax.grad(lambda x: ops.max_pool_3x3_stride_2(x).sum())(x)


@both
def test_pool_with_ties_keeps_the_gradient_s_sum(formulation):
    with ops.using(formulation):
        gradient = _pool_gradient(jnp.zeros((1, 7, 6, 2)))
    assert float(gradient.sum()) == pytest.approx(4 * 3 * 2)


def test_pool_on_cpu_shares_ties_equally():
    with ops.using("cpu"):
        gradient = _pool_gradient(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient[0, ..., 0], 0.25)


@both
def test_attention_survives_huge_scores(formulation):
    q = jnp.full((1, 3, 1, 4), 300.0)
    k = jnp.stack([jnp.full((1, 1, 4), 300.0), jnp.full((1, 1, 4), -300.0)], 1)
    v = jnp.arange(8.0).reshape(1, 2, 1, 4)
    with ops.using(formulation):
        out = jax.jit(ops.attention)(q, k, v)
        gradients = jax.jit(jax.grad(lambda *a: ops.attention(*a).sum(), (0, 1, 2)))(q, k, v)
    np.testing.assert_allclose(out, jnp.broadcast_to(v[:, :1], out.shape))
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


@both
def test_gelu_far_from_zero(formulation):
    x = jnp.array([-40.0, -6.0, 0.0, 6.0, 40.0])
    with ops.using(formulation):
        np.testing.assert_allclose(ops.gelu(x), [0, 0, 0, 6, 40], atol=1e-6)
        slope = jax.vmap(jax.grad(ops.gelu))(x)
    np.testing.assert_allclose(slope, [0, 0, 0.5, 1, 1], atol=1e-6)


def _zeros(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv(_zeros(1, 4, 4, 3), _zeros(3, 3, 2, 5)), r"\(3, 3, 2, 5\).*Cin"),
        (lambda: ops.conv(_zeros(1, 4, 4, 3), _zeros(3, 1, 3, 5)), r"\[k, k"),
        (lambda: ops.conv(_zeros(1, 4, 4, 3), _zeros(2, 2, 3, 5)), "explicit padding"),
        (lambda: ops.conv(_zeros(1, 3, 4, 3), _zeros(4, 4, 3, 5), padding=0), "at least 4"),
        (lambda: ops.conv(_zeros(1, 4, 4, 3), _zeros(1, 1, 3, 5), stride=0), "stride 0"),
        (
            lambda: ops.conv(_zeros(1, 4, 4, 3), _zeros(1, 1, 3, 5, dtype=jnp.bfloat16)),
            "float32.*bfloat16",
        ),
        (lambda: ops.depthwise_conv(_zeros(1, 4, 4, 3), _zeros(3, 3, 3, 1)), r"\[3, 3, 1, C\]"),
        (lambda: ops.max_pool_3x3_stride_2(_zeros(4, 4, 3)), r"\[B, H, W, C\]"),
        (lambda: ops.resize_bilinear(_zeros(1, 4, 4, 3), (8,)), r"\(8,\).*\(H, W\)"),
        (lambda: ops.resize_bilinear(_zeros(1, 4, 4, 3), (0, 4)), "at least 1"),
        (lambda: ops.resize_bilinear(_zeros(1, 4, 4, 3, dtype=jnp.int32), (8, 8)), "int32"),
        (
            lambda: ops.attention(_zeros(1, 4, 2, 3), _zeros(1, 5, 2, 4), _zeros(1, 5, 2, 4)),
            r"\(1, 5, 2, 4\).*heads",
        ),
    ],
)
def test_bad_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SHARDED = """
import jax, numpy as np
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from collabseg_jax import ops

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
x = draw(4, 9, 8, 6)
big = draw(4, 5, 6, 6)
kernels = dict(one=draw(1, 1, 6, 4), three=draw(3, 3, 6, 4), two=draw(2, 2, 6, 6),
               wide=draw(3, 3, 258, 256), shallow=draw(3, 3, 1, 6))

def every(k, x):
    wide = jnp.tile(big, 43)
    heads = x.reshape(4, 72, 2, 3)
    outs = [ops.conv(x, k["one"], stride=2), ops.conv(x, k["three"], stride=2),
            ops.conv(x, k["two"], stride=2, padding=0), ops.conv(wide, k["wide"]),
            ops.depthwise_conv(x, k["shallow"], stride=2, dilation=6),
            ops.max_pool_3x3_stride_2(x), ops.resize_bilinear(x, (18, 11)),
            ops.attention(heads, heads[:, :9], heads[:, 9:18]), ops.gelu(x)]
    return sum(jnp.mean(jnp.sin(o)) for o in outs)

run = jax.jit(jax.value_and_grad(every, argnums=(0, 1)))
alone = run(kernels, x)
spread = run(jax.device_put(kernels, NamedSharding(mesh, P())),
             jax.device_put(x, NamedSharding(mesh, P("data"))))
for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
assert len(spread[1][1].sharding.device_set) == 4
print("same")
"""


def test_four_devices_equal_one():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick.xla_flags(4), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]
