"""Three SGD steps and an evaluation on a mesh, for tests that compare meshes and processes.

python -m tests.run_steps --out=FILE.npz [--pair=tiny|real] [--float64] [--data=N]
    [--space=N] [--coordinator_address=HOST:PORT --num_processes=N --process_id=I]

Process 0 writes the gradients of the first step, the parameters after the third, the logs of each
step, and the confusion matrices of an evaluation. In float32 the gradient of a real CNN at its
start depends on which side of 0 single activations fall: to put the images of the batch in another
order changes it by 0.5 %. Float64 leaves only the differences that are the mesh's fault.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

if "--float64" in sys.argv:  # before the package takes it for a default
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64

from collabseg_jax import models
from collabseg_jax.collab import objective, programs, sharding, state
from collabseg_jax.collab.pair import PARTS, STUDENTS, Pair, init
from collabseg_jax.run import distributed
from tests import tiny

BATCH, CROP = 8, (128, 96)


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--pair", choices=["tiny", "real"], default="tiny")
    p.add_argument("--float64", action="store_true")
    p.add_argument("--data", type=int, default=-1)
    p.add_argument("--space", type=int, default=1)
    p.add_argument("--coordinator_address", default="")
    p.add_argument("--num_processes", type=int, default=0)
    p.add_argument("--process_id", type=int, default=-1)
    return p.parse_args()


def make_pair(kind, needs):
    if kind == "tiny":
        return tiny.make_pair(needs)
    cnn, vit = (
        models.build(name, tiny.CLASSES, dtype=jnp.float32)
        for name in ("deeplabv3plus_resnet18", "segformer_b0")
    )
    bridges = models.Bridges(cnn.stage_channels, vit.stage_channels, needs, dtype=jnp.float32)
    return Pair(cnn, vit, bridges, needs)


def mine(layout, batch):
    """The part of a global batch that this process would read."""
    return layout.place({key: value[layout.rows] for key, value in batch.items()})


def flat(prefix, tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"{prefix}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def main():
    a = parse()
    distributed.start(a.coordinator_address, a.num_processes, a.process_id)
    goal = objective.build_objective(tiny.FULL)
    pair = make_pair(a.pair, goal.needs)
    # Without clipping or decay, SGD's momentum after the first step is the gradient.
    optimizers = tiny.make_optimizers("sgd", lr=0.01, clip_norm=0.0)
    mesh = sharding.make_mesh(a.data, a.space)
    create = jax.jit(
        lambda: state.create_state(init(pair, jax.random.key(0)), optimizers, jax.random.key(1)),
        out_shardings=sharding.replicated(mesh),
    )
    layout = sharding.train_layout(mesh, batch_size=BATCH, crop=CROP)
    train_step = programs.jit_train_step(
        layout, pair=pair, objective=goal, optimizers=optimizers, jitter={"brightness": 0.2}
    )
    current, arrays = create(), {}
    for i in range(3):
        batch = tiny.make_batch(BATCH, CROP, seed=i)
        current, logs = train_step(current, mine(layout, batch))
        arrays |= flat(f"logs{i}", logs)
        if i == 0:
            arrays |= {f"gradient {k}": v for k, v in momentum(current).items()}
    for name in PARTS:
        arrays |= flat(f"parameter {name}", getattr(current, name).params)
    layout = sharding.eval_layout(mesh, batch_size=BATCH)
    eval_step = programs.jit_eval_step(layout, pair=pair, num_classes=tiny.CLASSES)
    variables = {name: getattr(create(), name).variables for name in STUDENTS}
    confusion = eval_step(variables, mine(layout, tiny.make_batch(BATCH, CROP, seed=9)))
    arrays |= flat("confusion", confusion)
    if jax.process_index() == 0:
        np.savez(a.out, **arrays)
    distributed.finish()


def momentum(current):
    arrays = {}
    for name in PARTS:
        traces = [part.trace for part in getattr(current, name).opt_state if hasattr(part, "trace")]
        assert len(traces) == 1
        arrays |= flat(name, traces[0])
    return arrays


if __name__ == "__main__":
    main()
