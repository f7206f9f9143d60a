#!/usr/bin/env python3
"""Compares srgan with PyTorch on this machine: time and memory of the same steps, on the same networks.

    python3 benches/compare/compare.py                          # everything: up to an hour
    python3 benches/compare/compare.py --only rcab --phases forward pretrain --pairs 3

On a GPU: gpu.py.

Builds srgan, installs PyTorch into target/compare/venv, and measures every config beside this file in three phases. A
row is one config in one phase: PyTorch runs once plainly tuned and once under torch.compile, srgan runs once to warm
up, and then srgan and the faster of the two run in turn. The row's figure is the median of the ratios of the pairs.

Exit code 0 if every floor holds, 1 if one does not, 2 if something could not be run.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean, median

from runs import HERE, WORK, Failed, add_program_arguments, programs, report, run, spread, table

HR = 128
# Counted steps and warm-up steps: a run lasts some seconds beside its start.
STEPS = {"forward": (30, 5), "pretrain": (8, 3), "adversarial": (5, 2)}
TIME_LIMIT = 3600

# What srgan promises: patches per second over PyTorch's, and step memory over PyTorch's.
ROW_FLOOR = 1.0
MEAN_FLOOR = 1.5
FORWARD_FLOOR = 1.3
MEMORY_CEILING = 0.5


@dataclass
class Row:
    """One config in one phase: the runs of the chosen mode in turn with srgan's, and PyTorch's leanest single run."""

    config: str
    phase: str
    mode: str = "tuned"
    lean: dict = field(default_factory=dict)
    srgan: list = field(default_factory=list)
    peer: list = field(default_factory=list)

    def speed_ratios(self):
        return [a["patches_per_s"] / b["patches_per_s"] for a, b in zip(self.srgan, self.peer)]

    def memory_peers(self):
        """The runs whose memory counts: PyTorch's leaner mode, as a compiled run's peak may include the compiler."""
        return [min(run, self.lean, key=lambda r: r["step_mem_mib"]) for run in self.peer]

    def memory_ratios(self):
        return [a["step_mem_mib"] / b["step_mem_mib"] for a, b in zip(self.srgan, self.memory_peers())]


def main():
    args = parse_args()
    start = time.monotonic()
    try:
        srgan, python = programs(args)
        rows = measure_all(args, srgan, python, start + TIME_LIMIT)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    measured = [row for row in rows if row.peer]
    print_table(measured)
    minutes = (time.monotonic() - start) / 60
    print(f"\n{args.threads} threads, {args.pairs} pairs a row, {minutes:.0f} minutes; all runs: target/compare/results.json")
    return judge(rows, complete=not args.only and len(args.phases) == len(STEPS))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs per row")
    parser.add_argument("--only", default="", help="configs whose name contains this")
    parser.add_argument("--phases", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="compute threads of both")
    add_program_arguments(parser)
    args = parser.parse_args()
    if args.pairs < 1 or args.threads < 1:
        parser.error("--pairs and --threads take numbers from 1")
    return args


def peer_modes():
    """The modes that this machine can run. torch.compile needs a C++ compiler for the CPU."""
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    if any(c and shutil.which(c) for c in compilers):
        return ["tuned", "compiled"]
    print("no C++ compiler (CXX, c++, g++, clang++): torch.compile is left out, and PyTorch may be slower for it")
    return ["tuned"]


def measure_all(args, srgan, python, deadline):
    """The rows in order. Those that the time does not suffice for have no runs."""
    configs = sorted(path for path in HERE.glob("*.yaml") if args.only in path.stem)
    if not configs:
        raise Failed(f"no config beside {Path(__file__).name} has {args.only!r} in its name")
    modes = peer_modes()
    rows = []
    for config in configs:
        for phase in args.phases:
            row = Row(config.stem, phase)
            rows.append(row)
            if time.monotonic() < deadline:
                measure(row, config, modes, args, srgan, python)
    return rows


def measure(row, config, modes, args, srgan, python):
    steps, warmup = STEPS[row.phase]
    common = ["-c", config, "--phase", row.phase, "--hr", HR, "--steps", steps, "--warmup", warmup]
    common += ["--threads", args.threads]
    ours = [srgan, "bench", *common, "--device", "cpu", "--json"]
    theirs = lambda mode: [python, HERE / "peer" / "step.py", *common, "--device", "cpu", "--mode", mode]
    single = {mode: run(theirs(mode), args.threads) for mode in modes}
    row.lean = min(single.values(), key=lambda result: result["step_mem_mib"])
    row.mode = max(single, key=lambda mode: single[mode]["patches_per_s"])
    run(ours, args.threads)
    for _ in range(args.pairs):
        row.srgan.append(run(ours, args.threads))
        row.peer.append(run(theirs(row.mode), args.threads))
    speeds = ", ".join(f"{mode} {result['patches_per_s']:.2f}" for mode, result in single.items())
    ratios = " ".join(f"{ratio:.2f}" for ratio in row.speed_ratios())
    print(f"{row.config} {row.phase}: single runs [patches/s] {speeds}; pairs {ratios}", flush=True)


def print_table(rows):
    header = ["config", "phase", "PyTorch", "patches/s", "PyTorch's", "ratio", "(spread)"]
    header += ["step MiB", "PyTorch's", "ratio", "(spread)", "peak MiB", "PyTorch's"]
    lines = []
    for row in rows:
        middle = lambda runs, key: median(r[key] for r in runs)
        speed, memory, memory_peers = row.speed_ratios(), row.memory_ratios(), row.memory_peers()
        line = [row.config, row.phase, row.mode]
        line += [f"{middle(runs, 'patches_per_s'):.2f}" for runs in (row.srgan, row.peer)]
        line += [f"{median(speed):.2f}", spread(speed)]
        line += [f"{middle(runs, 'step_mem_mib'):.0f}" for runs in (row.srgan, memory_peers)]
        line += [f"{median(memory):.2f}", spread(memory)]
        line += [f"{middle(runs, 'peak_mem_mib'):.0f}" for runs in (row.srgan, memory_peers)]
        lines.append(line)
    print("\n" + table(header, lines))


def judge(rows, complete):
    """Prints every floor with its verdict; 0 if all hold."""
    measured = [row for row in rows if row.peer]
    verdicts = []
    for row in measured:
        speed, memory = median(row.speed_ratios()), median(row.memory_ratios())
        name = f"{row.config} {row.phase}"
        verdicts.append((speed >= ROW_FLOOR, f"{name}: {speed:.2f} of PyTorch's patches/s, at least {ROW_FLOOR}"))
        verdicts.append((memory <= MEMORY_CEILING, f"{name}: {memory:.2f} of its step memory, at most {MEMORY_CEILING}"))
    for row in rows:
        if not row.peer:
            verdicts.append((False, f"{row.config} {row.phase}: not measured, the {TIME_LIMIT // 60} minutes were over"))
    means = [("all rows", MEAN_FLOOR, measured)]
    means.append(("forward rows", FORWARD_FLOOR, [row for row in measured if row.phase == "forward"]))
    for name, floor, group in means:
        mean = geometric_mean(median(row.speed_ratios()) for row in group) if group else math.nan
        text = f"geometric mean of {name}: {mean:.2f}, at least {floor}"
        if complete:
            verdicts.append((mean >= floor, text))
        else:
            print(f"not judged, rows are left out: {text}")
    return report(verdicts)


if __name__ == "__main__":
    sys.exit(main())
