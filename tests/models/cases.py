"""Variables with random values, made without running an initialiser, and distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from collabseg_jax import models

# Compiled in seconds and run once, instead of compiled in minutes and run fast.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.cache
def model(name, num_classes=5, **options):
    return models.build(name, num_classes, **options)


@functools.cache
def shapes(module):
    """The variables of a student as shapes and dtypes."""
    images = jax.ShapeDtypeStruct((1, 65, 47, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)


def fill(tree, seed=0):
    """Random values for a tree of shapes: every kernel, norm, bias and running statistic matters.

    Kernels keep the size of their input, norms and statistics are away from 1 and 0.
    """
    rng = np.random.default_rng(seed)

    def value(path, shape):
        leaf = path[-1]
        if leaf == "var":
            return rng.uniform(0.3, 1.5, shape)
        if leaf == "scale":
            return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape, p=[0.1, 0.9])
        if leaf in ("mean", "bias") or leaf.endswith("_bias"):
            return rng.normal(0, 0.5, shape)
        return rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[:-1]) ** -0.5)

    flat = traverse_util.flatten_dict(tree)
    filled = {
        path: value(path, leaf.shape).astype(np.float32, copy=False) for path, leaf in flat.items()
    }
    return traverse_util.unflatten_dict(filled)


@functools.cache
def variables(module):
    """Random variables of a student; not to be changed."""
    return fill(shapes(module))


def module_variables(module, *inputs, seed=0, **call):
    """Random variables of any module for the given inputs."""
    tree = jax.eval_shape(lambda *xs: module.init(jax.random.key(0), *xs, **call), *inputs)
    return fill(tree, seed)


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stage(module, tree, i, x, **call):
    """Stage i with the encoder of the variables `tree`, compiled."""
    tree = {kind: {"backbone": parts.get("backbone", {})} for kind, parts in tree.items()}
    run = jax.jit(lambda v, x: module.apply(v, i, x, method="stage", **call))
    return np.asarray(run(tree, x))


def wide(tree):
    """The same values in float64."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def difference(got, expected):
    """Largest difference relative to the largest expected value; shapes must agree."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    largest = np.abs(expected).max()
    assert largest > 0
    return np.abs(got - expected).max() / largest
