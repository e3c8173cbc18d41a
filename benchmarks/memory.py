"""Memory that each device needs for one training step when image rows are split over devices.

    python benchmarks/memory.py --crop=1024,2048 --batch=2 --space=1,2,4

Compiles the step of the full method for each number of devices along `space` (with `mesh.data` 1)
and runs nothing: no weights, no data, and no memory for either. Prints a Markdown table with a row
for each space as soon as it is compiled: what XLA sets aside on each device for intermediate values
(temporaries) and for state and batch (arguments; the new state takes the place of the old one), the
temporaries as a ratio to the first row's, and the seconds that compiling took.

Without an accelerator the devices are pretended ones of the CPU, and the figures are those of XLA's
CPU compiler: with --formulation=plain for the program that a GPU or TPU gets, but without what
their compilers fuse, schedule or lay out otherwise, and without workspaces of convolutions.
bfloat16 shows no saving there. For an accelerator's own figures, run it where there are as many of
them as the largest space; JAX_PLATFORMS=cpu leaves them alone.
"""

import argparse
import contextlib
import os
import sys
import time


def parse():
    def numbers(text):
        return tuple(int(n) for n in text.split(","))

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--crop", type=numbers, default=(1024, 2048), help="height,width")
    p.add_argument("--batch", type=int, default=2, help="images on all devices together")
    p.add_argument("--space", type=numbers, default=(1, 2, 4), help="devices along the rows")
    p.add_argument("--cnn", default="deeplabv3plus_resnet18")
    p.add_argument("--vit", default="segformer_b0")
    p.add_argument("--classes", type=int, default=19)
    p.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    p.add_argument(
        "--formulation",
        choices=["cpu", "plain"],
        help="of collabseg_jax.ops, plain is for GPU and TPU; default: what the backend gets",
    )
    return p.parse_args()


def compile_step(a, space):
    """The compiled training step of `space` devices."""
    import jax
    import jax.numpy as jnp

    from collabseg_jax import experiment, ops, pair, sharding, state, step
    from configs import base

    config = base.use_method(base.get_config())
    config.batch_size, config.precision, config.data.crop = a.batch, a.precision, a.crop
    config.cnn.model, config.vit.model = a.cnn, a.vit
    config.mesh.data, config.mesh.space = 1, space
    built = experiment.build(config, num_classes=a.classes)

    def create():
        variables = pair.init(built.pair, jax.random.key(0))
        return state.create(variables, built.optimizers, jax.random.key(1))

    pixels = jax.ShapeDtypeStruct((a.batch, *a.crop), jnp.uint8)
    batch = {
        "image": jax.ShapeDtypeStruct((*pixels.shape, 3), jnp.uint8),
        "label": pixels,
        "valid": jax.ShapeDtypeStruct((a.batch,), bool),
    }
    mesh = sharding.make_mesh(config.mesh.data, space, devices=jax.devices()[:space])
    layout = sharding.train_layout(mesh, batch_size=a.batch, crop=a.crop)
    train_step = step.jit_train_step(
        layout,
        pair=built.pair,
        objective=built.objective,
        optimizers=built.optimizers,
        jitter={k: config.data[k] for k in ("brightness", "contrast", "saturation")},
    )
    with ops.using(a.formulation) if a.formulation else contextlib.nullcontext():
        return train_step.lower(jax.eval_shape(create), batch).compile()


def main():
    a = parse()
    # Read when jax starts; concerns only the CPU, which jax takes where it finds nothing else.
    count = f"--xla_force_host_platform_device_count={max(a.space)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    from collabseg_jax.errors import InputError

    print("| space | temporaries (GiB) | arguments (GiB) | ratio of temporaries | compile (s) |")
    print("|---|---|---|---|---|", flush=True)
    first = None
    for space in a.space:
        began = time.perf_counter()
        try:
            memory = compile_step(a, space).memory_analysis()
        except InputError as error:
            sys.exit(str(error))
        seconds = time.perf_counter() - began
        # Of one device, on pretended CPU devices too (jax 0.10.2): of two sorts split over 1, 2, 4
        # of them, temporaries and arguments were 1092 and 1024, 546 and 512, 273 and 256 MiB.
        temporaries = memory.temp_size_in_bytes / 2**30
        arguments = memory.argument_size_in_bytes / 2**30
        first = first or temporaries
        row = (f"{temporaries:.2f}", f"{arguments:.3f}", f"{temporaries / first:.2f}")
        print(f"| {space} | {' | '.join(row)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
