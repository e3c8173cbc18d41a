"""How step_time.py, torch_step.py and keras_step.py time a step; needs none of their libraries."""

import json
import resource
import statistics
import sys
import time


def measure(step, facts: dict, *, batch: int, steps: int, serve: bool, device_gb=None) -> None:
    """Time `step`, a function that does one and waits for it, and print one JSON object.

    Args:
      facts: what else to print.
      batch: images in a step.
      steps: how many to time, after three that are not.
      serve: print the facts first, then for each line `go` on standard input {"ms", "cpu_ms",
        "rss_gb", "device_gb"}, until `quit`.
      device_gb: () -> the most memory that the device has had, if it is not the host's.
    """
    for _ in range(3):
        step()
    if serve:
        print(json.dumps(facts), flush=True)
        while sys.stdin.readline().strip() == "go":
            print(json.dumps(_timed(step, device_gb)), flush=True)
        return
    before = resource.getrusage(resource.RUSAGE_SELF)
    turns = [_timed(step, device_gb) for _ in range(steps)]
    after = resource.getrusage(resource.RUSAGE_SELF)
    median = statistics.median(turn["ms"] for turn in turns)
    facts |= {"step_ms": median, "images_per_s": batch * 1e3 / median}
    facts |= {  # of a step, on average
        "user_ms": (after.ru_utime - before.ru_utime) * 1e3 / steps,
        "system_ms": (after.ru_stime - before.ru_stime) * 1e3 / steps,
        "page_faults": (after.ru_minflt - before.ru_minflt) / steps,
    }
    print(json.dumps({**facts, **{k: turns[-1][k] for k in ("rss_gb", "device_gb")}}))


def _timed(step, device_gb) -> dict:
    cpu, began = time.process_time(), time.perf_counter()
    step()
    ms, cpu_ms = (time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3
    # The most that the process has had, compiling included.
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    on_device = device_gb and device_gb()
    return {"ms": ms, "cpu_ms": cpu_ms, "rss_gb": rss, "device_gb": on_device}
