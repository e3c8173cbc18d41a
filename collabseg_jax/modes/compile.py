"""`--mode=compile`: one training step compiled, and not run, for devices that need not be here."""

import contextlib
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from collabseg_jax import ops
from collabseg_jax.collab.sharding import Layout, make_mesh
from collabseg_jax.errors import InputError
from collabseg_jax.run.build import make_run

GIB = 2**30


def run(config: Any, workdir: Any = None) -> dict[str, Any]:
    """`--mode=compile`: what a step of this config takes on each device; no data, no weights.

    Args:
      config: every key of configs/base.py.
      workdir: not used.

    Returns:
      {"devices", "kind", "images" (on each device), "compile_s", "fits"}, and if it fits per device
      "arguments_gib" (state and batch), "temporaries_gib", "peak_gib" (both, and what of the new
      state does not take the place of the old) and "gflop" (as the compiler counts them; None
      if it does not); if not, "needs_gib" and "has_gib", as it says.

    Raises:
      InputError: an unknown topology, no TPU compiler, or a mesh, batch or crop that does not fit
        the devices.
    """
    topology = config.compile.topology
    devices = _tpus(topology) if topology else jax.devices()
    run = make_run(config, mesh=make_mesh(**config.mesh, devices=devices))
    step, state = run.jit_train_step(), run.abstract_state()
    began = time.perf_counter()
    with ops.using("plain") if topology else contextlib.nullcontext():
        lowered = step.lower(state, _batch(config, run.layout))
    costs: dict[str, Any] = {
        "devices": len(devices),
        "kind": devices[0].device_kind,
        "images": config.batch_size / run.mesh.shape["data"],
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        costs |= _too_large(error)
    else:
        costs |= _costs(compiled, None if topology else devices[0].memory_stats())
    costs["compile_s"] = time.perf_counter() - began
    print(_text(config, costs))
    return costs


def _tpus(topology: str) -> list:
    """The devices of a TPU topology, known from the compiler alone."""
    from jax.experimental import topologies

    # Else it asks a cloud that is not there.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    jax.config.update("jax_platforms", "cpu")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # of several types, by version
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"config.compile.topology is {topology!r}: {reason}; expected one like v5e:4x4, "
            "v5p:2x2x1 or v6e:4x4, and the TPU compiler installed (pip install -e '.[tpu]')"
        ) from error
    return list(described.devices)


def _batch(config: Any, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (config.batch_size, *config.data.crop)
    shapes = {"image": (*shape, 3), "label": shape, "valid": shape[:1]}
    kinds = {"image": jnp.uint8, "label": jnp.uint8, "valid": bool}
    return {
        key: jax.ShapeDtypeStruct(shapes[key], kinds[key], sharding=layout.shardings[key])
        for key in shapes
    }


def _costs(compiled: Any, stats: dict[str, Any] | None) -> dict[str, Any]:
    """`stats` are of a device that is here and tells how much memory it has."""
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis() or {}
    flops = counted.get("flops", -1)
    kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + kept
    limit = (stats or {}).get("bytes_limit", math.inf)
    if peak > limit:  # a compiler for GPUs compiles it all the same
        return {"fits": False, "needs_gib": peak / GIB, "has_gib": limit / GIB}
    return {
        "fits": True,
        "arguments_gib": memory.argument_size_in_bytes / GIB,
        "temporaries_gib": memory.temp_size_in_bytes / GIB,
        "peak_gib": peak / GIB,
        "gflop": flops / 1e9 if flops > 0 else None,
    }


def _too_large(error: Exception) -> dict[str, Any]:
    """What the compiler says of a program for which the memory does not suffice."""
    said = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
    if not said:
        raise error
    scale = {"K": 2**-20, "M": 2**-10, "G": 1.0}
    needs, has = (float(said[i]) * scale[said[i + 1]] for i in (1, 3))
    return {"fits": False, "needs_gib": needs, "has_gib": has}


def _text(config: Any, costs: dict[str, Any]) -> str:
    height, width = config.data.crop
    lines = [
        f"{config.cnn.model} and {config.vit.model}, {config.precision}, on {costs['devices']} "
        f"device(s) of kind {costs['kind']}: mesh data={costs['devices'] // config.mesh.space}, "
        f"space={config.mesh.space}",
        f"  batch                  {config.batch_size} images of {height}x{width}, "
        f"{costs['images']:g} for each place along data",
        f"  compiled in            {costs['compile_s']:.0f} s",
    ]
    if not costs["fits"]:
        return "\n".join(
            [
                *lines,
                f"  does not fit: it needs {costs['needs_gib']:.2f} GiB of the "
                f"{costs['has_gib']:.2f} of each device. A smaller batch_size, more devices, "
                "config.remat=True or config.precision=bfloat16 may help",
            ]
        )
    flops = costs["gflop"]
    return "\n".join(
        [
            *lines,
            f"  memory of a device     {costs['peak_gib']:.2f} GiB: state and batch "
            f"{costs['arguments_gib']:.2f}, temporaries {costs['temporaries_gib']:.2f}",
            f"  work of a device       {flops:.0f} GFLOP a step, as the compiler counts"
            if flops
            else "  work of a device       not stated by this compiler",
        ]
    )
