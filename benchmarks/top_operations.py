"""What a training step spends its time on: its longest operations, and sums by part and kind.

  python benchmarks/top_operations.py [options of step_time.py]

Profiles three steps with jax.profiler. A time is that of all threads together, so on several cores
the sum exceeds the step's. XLA names a fusion by what it computes last: read a row as a place in
the network rather than as the operation alone.
"""

import collections
import glob
import gzip
import json
import re
import sys
import tempfile

import jax
import step_time

STEPS = 3
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+?)[{ ].*?(?:op_name=\"([^\"]*)\")?[^\"]*$", re.M
)
PARTS = {"DeepLabV3Plus": "CNN", "SegFormer": "ViT", "Bridges": "bridges"}
KINDS = (
    *("depthwise", "attention", "ffn", "norm", "resize", "aspp", "decoder", "decode_head"),
    *("patch_embed", "features", "stage", "log_softmax"),
)


def measure(a) -> tuple[str, collections.Counter]:
    """The compiled program as text, and {instruction: milliseconds of a step}."""
    compiled, carry, run, _ = step_time.build(a)
    for _ in range(2):
        carry = run(carry)
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
    part = next((short for long, short in PARTS.items() if long in name), "losses and updates")
    way = "backward" if "transpose(" in name else "forward"
    kind = next((kind for kind in KINDS if kind in name), "other")
    return f"{part}, {way}, {kind}"


def main():
    text, spent = measure(step_time.parse())
    program = {name: (shape, where or "") for name, shape, where in INSTRUCTION.findall(text)}
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
