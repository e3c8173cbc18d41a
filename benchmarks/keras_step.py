"""Time one training step of Keras-hub's SegFormer on its JAX backend, to compare with step_time.py.

  python benchmarks/keras_step.py --classes=21 --batch=2 --crop=256,256

Needs keras-hub (which asks for TensorFlow too). In step_time.py, --solo=vit is the same network
with as many parameters. The work is equal but for the head, which Keras-hub computes as published
(--head=plain there), and for the diagnostics, of which a solo step has none either: cross-entropy
of enlarged logits, gradient clipped to 1, AdamW by optax.
"""

import argparse
import os
import time

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras_hub
import numpy as np
import optax
import timing

MITS = {"segformer_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256)}


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--vit", choices=list(MITS), default="segformer_b0")
    p.add_argument("--classes", type=int, default=21)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--crop", default="256,256", help="height,width")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--serve", action="store_true")
    return p.parse_args()


def build(a):
    """(step, number of parameters): a function that does one step and waits for it."""
    height, width = map(int, a.crop.split(","))
    dims, depths, filters = MITS[a.vit]
    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=depths,
        num_layers=4,
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(height, width, 3),
        hidden_dims=dims,
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=filters)
    model = keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=a.classes)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, a.classes, (a.batch, height, width))
    labels[rng.random(labels.shape) < 0.05] = 255
    images = rng.normal(size=(a.batch, height, width, 3)).astype(np.float32)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(6e-5, weight_decay=0.01))

    def loss(params, others):
        logits, others = model.stateless_call(params, others, images, training=True)
        valid = labels != 255
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
        return jnp.sum(jnp.where(valid, ce, 0)) / valid.sum(), others

    def update(params, others, opt_state):
        (value, others), grads = jax.value_and_grad(loss, has_aux=True)(params, others)
        changes, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), others, opt_state, value

    # Copies, as the step takes the memory of what it is given.
    params, others = (
        [jnp.array(v.value) for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    carry = [params, others, tx.init(params)]
    compiled = jax.jit(update, donate_argnums=(0, 1, 2)).lower(*carry).compile()

    def step():
        *carry[:], value = compiled(*carry)
        return float(value)

    return step, sum(p.size for p in params)


def main():
    a = parse()
    began = time.perf_counter()
    step, params = build(a)
    step()
    facts = {
        "jax": jax.__version__,
        "keras_hub": keras_hub.__version__,
        **{k: v for k, v in vars(a).items() if k != "serve"},
        "compile_s": round(time.perf_counter() - began, 2),
        "params": params,
    }
    timing.measure(step, facts, batch=a.batch, steps=a.steps, serve=a.serve)


if __name__ == "__main__":
    main()
