"""Optimizers against the formulas of torch, in float64."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collabseg_jax.collab import optim

PARAMS = {"backbone": {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([0.5])}}
GRADS = {"backbone": {"kernel": np.array([[0.3, 0.1]]), "bias": np.array([-0.2])}}


def run(tx, steps, params=PARAMS, grads=GRADS):
    import jax

    params = jax.tree.map(jnp.float32, params)
    opt_state = tx.init(params)
    for _ in range(steps):
        updates, opt_state = tx.update(jax.tree.map(jnp.float32, grads), opt_state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


def test_sgd_is_torchs():
    tx = optim.build_optimizer("sgd", lr=0.1, steps=10, power=0.9, momentum=0.9, weight_decay=0.01)
    actual = run(tx, 3)["backbone"]
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        p, buffer = PARAMS["backbone"][name].copy(), 0.0
        for t in range(3):
            g = GRADS["backbone"][name] + decay * p
            buffer = 0.9 * buffer + g
            p = p - 0.1 * (1 - t / 10) ** 0.9 * buffer
        np.testing.assert_allclose(actual[name], p, rtol=1e-6)


def test_adamw_is_torchs_with_warm_up():
    tx = optim.build_optimizer(
        "adamw", lr=0.1, steps=10, power=1.0, weight_decay=0.1, warmup_steps=2
    )
    actual = run(tx, 4)["backbone"]
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        p, m, v = PARAMS["backbone"][name].copy(), 0.0, 0.0
        for t in range(4):
            g = GRADS["backbone"][name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            lr = 0.1 * (1 - t / 10) * min(1.0, max(t / 2, 1e-6))
            step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
            p = p - lr * (step + decay * p)
        np.testing.assert_allclose(actual[name], p, rtol=1e-5)


def test_head_learns_faster_and_clipping_is_global():
    params = {"backbone": {"k": np.zeros(1)}, "head": {"k": np.zeros(1)}}
    grads = {"backbone": {"k": np.array([3.0])}, "head": {"k": np.array([4.0])}}
    tx = optim.build_optimizer(
        "sgd", lr=1.0, steps=10, momentum=0.0, head_lr_mult=10.0, clip_norm=1.0
    )
    actual = run(tx, 1, params, grads)
    assert float(actual["backbone"]["k"][0]) == pytest.approx(-0.6)
    assert float(actual["head"]["k"][0]) == pytest.approx(-8.0)


def test_gradients_are_clipped_and_not_updates():
    """Before the moments and the decay; some gradients are above the norm and some below."""
    start = np.array([[0.5, -0.2, 0.3]], np.float32)
    params = {"backbone": {"k": start[:, :2]}, "head": {"k": start[:, 2:]}}
    tx = optim.build_optimizer(
        "adamw", lr=0.1, steps=10, weight_decay=0.1, head_lr_mult=3.0, clip_norm=1.0
    )
    state, actual = tx.init(params), params
    p, m, v = np.array([0.5, -0.2, 0.3]), 0.0, 0.0
    for t, size in enumerate((4.0, 0.1, 2.0, 0.3)):
        g = size * np.array([0.6, -0.3, 0.8]) + t / 10
        wide = g[None].astype(np.float32)
        grads = {"backbone": {"k": wide[:, :2]}, "head": {"k": wide[:, 2:]}}
        updates, state = tx.update(grads, state, actual)
        actual = optax.apply_updates(actual, updates)
        g = g * min(1.0, 1.0 / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        p = p - 0.1 * (1 - t / 10) * np.array([1, 1, 3]) * (step + 0.1 * p)
    got = np.concatenate([actual["backbone"]["k"][0], actual["head"]["k"][0]])
    np.testing.assert_allclose(got, p, atol=2e-5)  # 1 - 0.999**t in float32, of four steps


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("lr", -1.0), ("lr", float("nan")), ("steps", 0), ("warmup_steps", 10), ("power", -1.0)],
        *[("weight_decay", -1.0), ("momentum", 1.0), ("momentum", -0.5), ("head_lr_mult", -1.0)],
        *[("clip_norm", -1.0), ("clip_norm", float("inf"))],
    ],
)
def test_numbers_that_cannot_be(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}, expected"):
        optim.build_optimizer("sgd", **{"lr": 0.1, "steps": 10} | {key: value})


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="adamw"):
        optim.build_optimizer("adam", lr=0.1, steps=10)


def test_adamw_has_no_momentum():
    with pytest.raises(ValueError, match="momentum is 0.9, expected none with adamw"):
        optim.build_optimizer("adamw", lr=0.1, steps=10, momentum=0.9)


def test_the_heads_factor_has_no_state():
    """The checkpoints of 0.1.0 hold none, and are read with the structure of today's state."""
    params = {"backbone": {"k": np.zeros((1, 1))}, "head": {"k": np.zeros((1, 1))}}
    for kind in ("sgd", "adamw"):
        tx = optim.build_optimizer(kind, lr=0.1, steps=10, head_lr_mult=10.0)
        head, rate = tx.init(params)[-2:]
        assert head == optax.EmptyState() and isinstance(rate, optax.ScaleByScheduleState)
