"""Time one training step of a pair on random data; prints one JSON object.

  python benchmarks/step_time.py --cnn=deeplabv3plus_resnet18 --vit=segformer_b0 \\
      --separable=false --classes=21 --batch=2 --crop=256,256 --precision=float32 --losses=full

With --serve its standard output carries only JSON lines: its facts first, then for each line `go`
on standard input {"ms", "cpu_ms", "rss_gb", "device_gb"}, until `quit`; so two programs can be
interleaved.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import timing

from collabseg_jax.collab import objective, optim, pair, programs, sharding, state
from collabseg_jax.configs import ablations
from collabseg_jax.run import runtime
from collabseg_jax.run.pages import load


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--cnn", default="deeplabv3plus_resnet18")
    p.add_argument("--vit", default="segformer_b0")
    p.add_argument("--separable", choices=["true", "false"], default="true")
    p.add_argument("--head", choices=["plain", "folded"], default="folded")
    p.add_argument("--classes", type=int, default=21)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--crop", default="256,256", help="height,width")
    p.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rows", type=int, default=0, help="of the losses' strips; 0: all at once")
    p.add_argument(
        "--losses", choices=ablations.ABLATIONS, default="full", help="of configs/ablations.py"
    )
    p.add_argument("--solo", choices=["cnn", "vit"], help="one student, cross-entropy only")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--serve", action="store_true")
    return p.parse_args()


def solo_step(params, opt_state, batch_stats, rng, batch, *, model, tx):
    """One supervised step of a single student, without the pair around it."""
    from collabseg_jax import losses, ops
    from collabseg_jax.collab import augment

    def loss(params):
        output, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            augment.normalize(batch["image"]),
            train=True,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
        )
        logits = ops.resize_bilinear(output.logits, batch["label"].shape[1:3])
        return losses.masked_mean(*losses.cross_entropy(logits, batch["label"])), updates

    (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(params)
    changes, opt_state = tx.update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, changes)
    return params, opt_state, updates["batch_stats"], value


def build(a):
    """(compiled, carry, run): `run(compiled, carry)` does one step and returns the next carry."""
    height, width = map(int, a.crop.split(","))
    rng = np.random.default_rng(0)
    label = rng.integers(0, a.classes, (a.batch, height, width)).astype(np.uint8)
    label[rng.random(label.shape) < 0.05] = 255
    image = rng.integers(0, 256, (a.batch, height, width, 3)).astype(np.uint8)
    batch = {"image": image, "label": label, "valid": np.ones(a.batch, bool)}
    config = load(f"ablations:{'alone' if a.solo else a.losses}")
    table = {name: dict(row) for name, row in config.losses.items()}
    goal = objective.build_objective(table, strip_rows=a.rows)
    students = pair.build_pair(
        a.cnn,
        a.vit,
        num_classes=a.classes,
        needs=goal.needs,
        precision=a.precision,
        borrowed_grad=config.bridges.borrowed_grad,
        mask_ratio=config.bridges.mask_ratio,
        cnn_options={"separable": a.separable == "true"},
        vit_options={"head": a.head},
    )
    sgd = optim.build_optimizer(
        "sgd", lr=0.01, steps=10**6, power=0.9, weight_decay=1e-4, clip_norm=10.0
    )
    adamw = optim.build_optimizer("adamw", lr=6e-5, steps=10**6, weight_decay=0.01, clip_norm=1.0)
    optimizers = {"cnn": sgd, "vit": adamw, "bridges": adamw}
    created = jax.jit(  # one program, not one for each operation
        lambda: state.create_state(
            pair.init(students, jax.random.key(0)), optimizers, jax.random.key(1)
        )
    )()
    params = {k: count(getattr(created, k).params) for k in optimizers}
    if a.solo:
        part, model, tx = getattr(created, a.solo), getattr(students, a.solo), optimizers[a.solo]
        fn = jax.jit(functools.partial(solo_step, model=model, tx=tx), donate_argnums=(0, 1, 2))
        carry = (part.params, part.opt_state, part.batch_stats)
        batch = jax.device_put(batch)
        compiled = fn.lower(*carry, created.rng, batch).compile()

        def run(carry):
            *carry, value = compiled(*carry, created.rng, batch)
            float(value)
            return tuple(carry)

        return compiled, carry, run, {a.solo: params[a.solo]}
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    layout = sharding.train_layout(mesh, batch_size=a.batch, crop=(height, width))
    batch = layout.place(batch)
    fn = programs.jit_train_step(
        layout, pair=students, objective=goal, optimizers=optimizers, jitter={}
    )
    created = jax.device_put(created, sharding.replicated(mesh))
    compiled = fn.lower(created, batch).compile()

    def run(carry):
        carry, logs = compiled(carry, batch)
        float(logs["cnn/ce"])
        return carry

    return compiled, created, run, params


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def main():
    a = parse()
    runtime.keep_freed_memory()  # as the command line does
    began = time.perf_counter()
    compiled, carry, run, params = build(a)
    compile_s = time.perf_counter() - began
    memory = compiled.memory_analysis()
    facts = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        **{k: v for k, v in vars(a).items() if k != "serve"},
        "compile_s": round(compile_s, 2),
        "temp_gib": round(memory.temp_size_in_bytes / 2**30, 3),
        "params": params,
    }

    def once():
        nonlocal carry
        carry = run(carry)

    def device_gb():
        stats = jax.devices()[0].memory_stats()  # None where its memory is the host's
        return stats and stats["peak_bytes_in_use"] / 1e9

    timing.measure(once, facts, batch=a.batch, steps=a.steps, serve=a.serve, device_gb=device_gb)


if __name__ == "__main__":
    main()
