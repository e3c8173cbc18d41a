"""What a training step spends its time on, and how far it is from what the machine can do.

  python benchmarks/top_operations.py [options of step_time.py]

First the two limits: the step's operations over the rate of a large matrix product, and the bytes
that its operations read and write over the bandwidth of adding 1 to a large array; both rates are
measured here, operations and bytes are XLA's own count. No step can be faster than the first. Then
the longest operations, and sums by part and kind, of three steps under jax.profiler: times of all
threads together, so on several cores their sum exceeds the step's. XLA names a fusion by what it
computes last: read a row as a place in the network rather than as the operation alone.
"""

import collections
import glob
import gzip
import json
import re
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import step_time

from collabseg_jax.run import runtime

STEPS = 3
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ([^{ ]+)")
PLACE = re.compile(r'op_name="([^"]*)"')
PARTS = {"DeepLabV3Plus": "CNN", "SegFormer": "ViT", "Bridges": "bridges"}
KINDS = (
    *("depthwise", "attention", "ffn", "norm", "resize", "aspp", "decoder", "decode_head"),
    *("patch_embed", "features", "stage", "log_softmax"),
)


def fastest(fn, *arguments) -> float:
    """Seconds of a call of a function when compiled."""
    fn, times = jax.jit(fn), []
    for _ in range(8):
        began = time.perf_counter()
        jax.block_until_ready(fn(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


def limits(compiled, dtype) -> str:
    """The two limits of a program, as text."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square, line = jnp.ones((size, size), dtype), jnp.ones(2**26, jnp.float32)
    rate = 2 * size**3 / fastest(jnp.matmul, square, square)
    bandwidth = 2 * line.nbytes / fastest(lambda x: x + 1, line)
    costs = compiled.cost_analysis()
    flops, moved = costs["flops"], costs["bytes accessed"]
    return (
        f"{flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s: {flops / rate * 1e3:.0f} ms; "
        f"{moved / 1e9:.1f} GB at {bandwidth / 1e9:.0f} GB/s: {moved / bandwidth * 1e3:.0f} ms"
    )


def measure(a) -> tuple[str, collections.Counter]:
    """The compiled program as text, and {instruction: milliseconds of a step}."""
    compiled, carry, run, _ = step_time.build(a)
    for _ in range(2):
        carry = run(carry)
    print(limits(compiled, a.precision))
    began = time.perf_counter()
    for _ in range(STEPS):
        carry = run(carry)
    print(f"a step: {(time.perf_counter() - began) / STEPS * 1e3:.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                carry = run(carry)
        (path,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    spent = collections.Counter()
    for event in events:
        if event.get("ph") == "X":
            spent[event["name"].split(" ")[0]] += event["dur"] / 1e3 / STEPS
    return compiled.as_text(), spent


def place(name: str) -> str:
    """Where in the step an operation comes from, by its name: part, direction, kind."""
    if not name:
        return "not named by XLA (mostly weight gradients of convolutions)"
    part = next((short for long, short in PARTS.items() if long in name), "losses and updates")
    way = "backward" if "transpose(" in name else "forward"
    kind = next((kind for kind in KINDS if kind in name), "other")
    return f"{part}, {way}, {kind}"


def main():
    runtime.keep_freed_memory()  # as the command line does
    text, spent = measure(step_time.parse())
    program = {}
    for line in text.splitlines():
        if parts := INSTRUCTION.match(line):
            where = PLACE.search(line)
            program[parts[1]] = parts[2], where[1] if where else ""
    spent = collections.Counter({name: ms for name, ms in spent.items() if name in program})
    whole = sum(spent.values())
    if not whole:
        sys.exit("no operation of the program is in the profile: this backend names them otherwise")
    print(f"{whole:.0f} ms of a step, all threads together")
    print("\nms | share | operation | result | where")
    for name, ms in spent.most_common(10):
        shape, where = program[name]
        where = where.removeprefix("jit(train_step)/")
        print(f"{ms:.1f} | {ms / whole:.1%} | {name} | {shape} | {where}")
    places = collections.Counter()
    for name, ms in spent.items():
        places[place(program[name][1])] += ms
    print("\nms | share | place")
    for name, ms in places.most_common(20):
        print(f"{ms:.0f} | {ms / whole:.1%} | {name}")


if __name__ == "__main__":
    main()
