"""Blocks with recomputed activations: same parameters, outputs and gradients, less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import models

NAMES = (
    "deeplabv3plus_resnet18",
    "deeplabv3plus_resnet50",
    "deeplabv3plus_mobilenet_v2",
    "segformer_b0",
)


def parts(name, remat):
    """(variables, variables -> a scalar of all stages and the new running statistics)."""
    options = {"dropout": 0.0} | ({"drop_path": 0.5} if name.startswith("seg") else {})
    model = models.build(name, 3, remat=remat, **options)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    def run(params, variables):
        output, new = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        maps = (*output.stages, output.logits)
        return sum(jnp.sum(jnp.sin(x)) for x in maps), new

    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return shapes, run


def numbers(shapes):
    """Small, fixed, and with positive variances."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.abs(0.05 * rng.normal(size=s.shape)) + 0.01, shapes)


def kept(run, shapes):
    """Bytes that the forward pass keeps for the backward pass."""
    params = shapes["params"]
    fn = functools.partial(lambda p, v: jax.vjp(lambda q: run(q, v)[0], p)[1], v=numbers(shapes))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(fn, params)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if "mobilenet" in name else name for name in NAMES],
)
def test_less_is_kept_of_the_same_network(name):
    (plain, run), (remat, again) = parts(name, False), parts(name, True)
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
    parameters = sum(4 * x.size for x in jax.tree.leaves(plain["params"]))
    assert kept(again, remat) - parameters < 0.75 * (kept(run, plain) - parameters)


@pytest.mark.parametrize(
    "name", [pytest.param("deeplabv3plus_resnet18", marks=pytest.mark.slow), "segformer_b0"]
)
def test_gradients_and_running_statistics_are_the_same(name):
    results = []
    with jax.enable_x64(True):
        for remat in (False, True):
            shapes, run = parts(name, remat)
            variables = jax.tree.map(lambda x: x.astype(jnp.float64), numbers(shapes))
            fn = jax.jit(
                jax.value_and_grad(run, has_aux=True),
                compiler_options={"xla_backend_optimization_level": 0},
            )
            results.append(jax.device_get(fn(variables["params"], variables)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
