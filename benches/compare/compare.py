#!/usr/bin/env python3
"""Compares srgan with PyTorch on this machine: time and memory of the same steps, on the same networks.

    python3 benches/compare/compare.py                          # everything: up to an hour
    python3 benches/compare/compare.py --only rcab --phases forward pretrain --pairs 3

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
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean, median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "compare"
REQUIREMENTS = ["torch==2.11.0", "pyyaml==6.0.3", "numpy==2.4.6"]
HR = 128
# Counted steps and warm-up steps: a run lasts some seconds beside its start.
STEPS = {"forward": (30, 5), "pretrain": (8, 3), "adversarial": (5, 2)}
TIME_LIMIT = 3600
RUN_LIMIT = 900

# What srgan promises: patches per second over PyTorch's, and step memory over PyTorch's.
ROW_FLOOR = 1.0
MEAN_FLOOR = 1.5
FORWARD_FLOOR = 1.3
MEMORY_CEILING = 0.5


class Failed(Exception):
    """A program that could not be run."""


@dataclass
class Row:
    """One config in one phase: the runs of the chosen mode in turn with srgan's, and PyTorch's tuned run."""

    config: str
    phase: str
    mode: str = "tuned"
    tuned: dict = field(default_factory=dict)
    srgan: list = field(default_factory=list)
    peer: list = field(default_factory=list)

    def speed_ratios(self):
        return [a["patches_per_s"] / b["patches_per_s"] for a, b in zip(self.srgan, self.peer)]

    def memory_peers(self):
        """The runs whose memory counts: a compiled run's peak would include the compiler."""
        return self.peer if self.mode == "tuned" else [self.tuned] * len(self.srgan)

    def memory_ratios(self):
        return [a["step_mem_mib"] / b["step_mem_mib"] for a, b in zip(self.srgan, self.memory_peers())]


def main():
    args = parse_args()
    start = time.monotonic()
    try:
        srgan, python = build_srgan(), args.python or install_peer()
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
    parser.add_argument("--python", type=Path, help="an interpreter that has PyTorch already")
    args = parser.parse_args()
    if args.pairs < 1 or args.threads < 1:
        parser.error("--pairs and --threads take numbers from 1")
    return args


def build_srgan():
    if subprocess.run(["cargo", "build", "--release", "--bin", "srgan"], cwd=ROOT).returncode:
        raise Failed("srgan does not build")
    return ROOT / "target" / "release" / "srgan"


def install_peer():
    """A Python with the pinned PyTorch, installed at the first run."""
    folder = WORK / "venv"
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        print("installing PyTorch into target/compare/venv", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
        if subprocess.run(pip).returncode:
            raise Failed(f"pip could not install {', '.join(REQUIREMENTS)}")
        stamp.write_text(wanted)
    return python


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
    row.tuned = single["tuned"]
    row.mode = max(single, key=lambda mode: single[mode]["patches_per_s"])
    run(ours, args.threads)
    for _ in range(args.pairs):
        row.srgan.append(run(ours, args.threads))
        row.peer.append(run(theirs(row.mode), args.threads))
    speeds = ", ".join(f"{mode} {result['patches_per_s']:.2f}" for mode, result in single.items())
    ratios = " ".join(f"{ratio:.2f}" for ratio in row.speed_ratios())
    print(f"{row.config} {row.phase}: single runs [patches/s] {speeds}; pairs {ratios}", flush=True)


def run(command, threads):
    """The JSON object that a program prints in its last line."""
    count = str(threads)
    cache = str(WORK / "inductor")
    env = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=RUN_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)} took more than {RUN_LIMIT} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def print_table(rows):
    header = ["config", "phase", "PyTorch", "patches/s", "PyTorch's", "ratio", "(spread)"]
    header += ["step MiB", "PyTorch's", "ratio", "(spread)", "peak MiB", "PyTorch's"]
    lines = [header]
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
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for line in lines[1:]:
        print("| " + " | ".join(line) + " |")


def spread(values):
    return f"{min(values):.2f}–{max(values):.2f}"


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
    failures = [text for holds, text in verdicts if not holds]
    print(f"{len(verdicts) - len(failures)} of {len(verdicts)} floors hold")
    for text in failures:
        print(f"FAILED {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
