"""Kill a run again and again, and see whether it ends in the same bits as one left alone.

  python benchmarks/kill.py --kills=50              tiny students, 900 steps: about 15 minutes
  python benchmarks/kill.py --kills=5 --pair=real   ResNet-18 and MiT-B0

Every start uses another number of workers (0, 1, 2, 0, ...). The kills come at random moments: in
turn three during the start, three during the steps, three while a checkpoint is being written.
Prints the table of docs/results.md; exits with 1 if a single bit of the final state differs.
"""

import argparse
import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from collabseg_jax.run import record

MOMENTS = ("starting", "training", "saving")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests import tiny  # noqa: E402

SMALL = ["--config.batch_size=4", "--config.data.crop=(32,32)", "--config.eval.every=0"]
SMALL += ["--config.log.every=1"]
TINY = ["--config.cnn.model=tiny_cnn", "--config.vit.model=tiny_vit"]


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--kills", type=int, default=50)
    p.add_argument("--pair", choices=["tiny", "real"], default="tiny")
    p.add_argument("--steps", type=int, default=900)
    p.add_argument("--every", type=int, default=8, help="steps between two checkpoints")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def command(a, workdir, workers):
    module = "tests.run_tiny" if a.pair == "tiny" else "collabseg_jax.main"
    flags = [*SMALL, *(TINY if a.pair == "tiny" else [])]
    flags += [f"--config.steps={a.steps}", f"--config.checkpoint.every={a.every}"]
    flags += [f"--workdir={workdir}", f"--config.data.workers={workers}"]
    return [sys.executable, "-m", module, "--config=configs/quickstart.py", *flags]


def unfinished(workdir):
    """The checkpoints that are being written; one that was left behind keeps its inode."""
    folder = workdir / "checkpoints"
    files = set()
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        with contextlib.suppress(FileNotFoundError):
            files.add((path.name, path.stat().st_ino))
    return files


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def live_and_die(a, workdir, workers, *, aim, took, chance):
    """One life of the run; when it died (one of MOMENTS), or None if it reached its end."""
    left, logged = unfinished(workdir), lines(workdir)
    with (workdir.parent / "killed.log").open("a") as log:
        process = subprocess.Popen(command(a, workdir, workers), cwd=ROOT, stdout=log, stderr=log)
    saves, which = set(), chance.choice((1, 2, 3))
    deadline = time.monotonic() + chance.uniform(0.0, 0.4 * took)
    while process.poll() is None:
        saves |= unfinished(workdir) - left
        trains = lines(workdir) != logged
        if aim == "starting" and (trains or time.monotonic() > deadline):
            break
        if aim == "training" and trains:
            time.sleep(chance.uniform(0.0, 0.5))
            break
        if aim == "saving" and len(saves) >= which:
            time.sleep(chance.uniform(0.0, 0.05))
            break
        time.sleep(0.002)
    if process.poll() is not None:
        if process.returncode:
            sys.exit(f"the run ended with {process.returncode}: see {log.name}")
        return None
    process.kill()
    process.wait()
    if unfinished(workdir) - left:
        return "saving"
    return "training" if lines(workdir) != logged else "starting"


def arrays(workdir):
    config = record.recorded_config(workdir, ConfigDict())
    return tiny.trained_arrays(workdir, config)


def main():
    a = parse()
    tiny.install()
    chance = random.Random(a.seed)
    folder = Path(tempfile.mkdtemp(prefix="collabseg-kill-"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    alone, killed = folder / "alone", folder / "killed"
    for warm_up in (folder / "warm-up", alone):  # the first one compiles
        began = time.monotonic()
        with (folder / "alone.log").open("a") as log:
            subprocess.run(command(a, warm_up, 0), cwd=ROOT, stdout=log, stderr=log, check=True)
        took = time.monotonic() - began
    print(f"uninterrupted: {took:.1f} s; runs and logs in {folder}", flush=True)
    killed.mkdir()
    died = collections.Counter()
    for start in range(a.kills):
        aim = MOMENTS[start // 3 % 3]
        when = live_and_die(a, killed, start % 3, aim=aim, took=took, chance=chance)
        if when is None:
            print("the run has reached its end", flush=True)
            break
        died[when] += 1
        print(f"kill {start + 1} while {when}, step {lines(killed)}", flush=True)
    subprocess.run(command(a, killed, 1), cwd=ROOT, check=True)
    one, other = arrays(alone), arrays(killed)
    differing = sum(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    total = len(jax.tree.leaves(one))
    row = {"pair": a.pair, "steps": a.steps, "checkpoint every": a.every}
    row |= {"kills": sum(died.values())} | {f"while {k}": died[k] for k in MOMENTS}
    row |= {"arrays that differ": f"{differing} of {total}"}
    for cells in (row, ["---"] * len(row), row.values()):
        print("|", " | ".join(map(str, cells)), "|")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
