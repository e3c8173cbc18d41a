"""Let programs take turns, one step each, and compare them within each round.

  python benchmarks/interleave.py ROUNDS 'name=command ...' 'other=command ...' [--sum=a,b]

A command is a script of this folder and its options, run with --serve by this Python; `VAR=value`
before it sets its environment, and PYTHON=path names another interpreter. The first is what the
others are compared with; with --sum it is the sum of these (as one would train them one after the
other). Printed are medians over rounds, in milliseconds, and the median (and extremes) of the
ratios within rounds: the machine's moods strike both sides of those alike.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path


class Program:
    """A benchmark that waits for its turn."""

    def __init__(self, spec: str):
        """Start `name=command`; ready when its facts are read."""
        self.name, command = spec.split("=", 1)
        words, environment = shlex.split(command), dict(os.environ)
        while "=" in words[0]:
            key, value = words.pop(0).split("=", 1)
            environment[key] = value
        # All programs are there at the same time: none may take most of a GPU's memory for itself.
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        words[0] = str(Path(__file__).parent / words[0])
        self._process = subprocess.Popen(
            [environment.pop("PYTHON", sys.executable), *words, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._read()
        self.turns = []

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: ended with exit code {self._process.wait()}")
        return json.loads(line)

    def step(self) -> None:
        """One step, timed by the program itself."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.turns.append(self._read())

    def end(self) -> None:
        """Ask it to leave."""
        self._process.stdin.write("quit\n")
        self._process.stdin.close()
        self._process.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("rounds", type=int)
    p.add_argument("programs", nargs="+")
    p.add_argument(
        "--sum", help="compare with the sum of these programs, names with commas between"
    )
    a = p.parse_args()
    programs = {}
    for spec in a.programs:
        program = Program(spec)
        programs[program.name] = program
    for _ in range(a.rounds):
        for program in programs.values():
            program.step()
    for program in programs.values():
        program.end()
    of = {
        key: {name: [turn[key] for turn in program.turns] for name, program in programs.items()}
        for key in ("ms", "cpu_ms")
    }
    base = a.sum.split(",") if a.sum else [next(iter(programs))]
    print(f"{a.rounds} rounds; ratios to {' + '.join(base)}")
    print("program | ms | cpu ms | ratio (extremes) | cpu ratio | memory GB | compile s | device")
    for name, program in programs.items():
        ratios = {}
        for key, times in of.items():
            reference = map(sum, zip(*(times[b] for b in base), strict=True))
            ratios[key] = [t / b for t, b in zip(times[name], reference, strict=True)]
        r = ratios["ms"]
        print(
            f"{name} | {statistics.median(of['ms'][name]):.0f} | "
            f"{statistics.median(of['cpu_ms'][name]):.0f} | "
            f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f}) | "
            f"{statistics.median(ratios['cpu_ms']):.2f} | "
            f"{program.turns[-1]['rss_gb']:.2f} | {program.facts.get('compile_s', '-')} | "
            f"{program.facts.get('device', '-')}{_device_memory(program.turns[-1])}"
        )


def _device_memory(turn: dict) -> str:
    return f", {turn['device_gb']:.2f} GB" if turn["device_gb"] is not None else ""


if __name__ == "__main__":
    main()
