#!/usr/bin/env python3
"""Compares srgan with PyTorch on a GPU: time and memory of the same training steps, and where srgan's time goes.

    python3 benches/compare/gpu.py                                        # everything, on the first GPU
    python3 benches/compare/gpu.py --binary bin/srgan --python bin/python # builds and installs nothing
    python3 benches/compare/gpu.py --only 10m --phases pretrain --pairs 5
    python3 benches/compare/gpu.py --device cpu --quick                   # tiny networks on the CPU: proves this script

Measures the configs of benches/compare/gpu in two phases. In each, srgan runs once to compile its kernels and to choose
algorithms; then srgan and PyTorch in its modes (peer/step.py) run in turn, as often as --pairs says; in the last round
srgan also makes its profile, after its steps were timed. A figure is the median of the runs, a ratio that of the ratios
of the rounds.

Prints Markdown for benches/RESULTS.md and writes it to target/compare/gpu.md, all runs to target/compare/gpu.json: after
each row, so that a comparison that is stopped keeps what it has. One without any run leaves earlier results alone.
Exit code 0 if every floor holds, 1 if one does not or could not be measured, 2 if nothing could be run.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import median

from runs import HERE, WORK, Failed, add_program_arguments, programs, report, run, spread, table

MODES = ["reference", "tuned", "compiled"]
PHASES = ["pretrain", "adversarial"]
# What srgan promises beside PyTorch's tuned mode: patches per second, and peak memory.
SPEED_FLOOR = 1.0
MEMORY_CEILING = 0.7
# Lines of a profile that are shown.
COSTLIEST = 10
# The same layers on small extents.
QUICK = ["Data.train_batch_size=1", "Generator.n_blocks=1"]


@dataclass
class Row:
    """One config in one phase: runs by program, why one failed, and what they warned of."""

    config: str
    phase: str
    runs: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)

    @property
    def profile(self):
        """srgan's, or none."""
        return next((run["profile"] for run in self.runs.get("srgan", []) if run.get("profile")), None)

    def median(self, program, key):
        return median(result[key] for result in self.runs[program])

    def ratios(self, program, key):
        """Of each round, the program's figure over that of PyTorch's tuned mode."""
        return [a[key] / b[key] for a, b in zip(self.runs.get(program, []), self.runs.get("tuned", []))]


def main():
    args = parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    configs = sorted(path for path in (HERE / "gpu").glob("*.yaml") if args.only in path.stem)
    rows = [Row(config.stem, phase) for config in configs for phase in args.phases]
    try:
        if not rows:
            raise Failed(f"no config in benches/compare/gpu has {args.only!r} in its name")
        srgan, python = programs(args)
        for row in rows:
            if time.monotonic() < deadline:
                measure(row, args, srgan, python)
                save(rows)
            if not rows[0].runs:
                raise Failed("the first row could not be measured, so the others are not tried")
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{markdown(rows)}\n")
    if args.quick:
        print("floors are not judged: the figures of tiny networks mean nothing")
        return 1 if any(row.failed for row in rows) else 0
    return report(judge(rows))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--pairs", type=int, default=3, help="rounds of runs per row")
    parser.add_argument("--only", default="", help="configs whose name contains this")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="of PyTorch; tuned is always one")
    parser.add_argument("--hr", type=int, default=512, help="side of the HR patches")
    parser.add_argument("--steps", type=int, default=20, help="counted steps of a run")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--minutes", type=float, default=120, help="no row is begun after that")
    parser.add_argument("--quick", action="store_true", help="one block, one patch of 64 pixels, one short round")
    add_program_arguments(parser)
    args = parser.parse_args()
    for name, least in [("pairs", 1), ("hr", 1), ("steps", 1), ("warmup", 0)]:
        if getattr(args, name) < least:
            parser.error(f"--{name} takes numbers from {least}")
    if args.quick:
        args.pairs, args.hr, args.steps, args.warmup = 1, 64, 2, 1
    args.modes = [mode for mode in MODES if mode in args.modes or mode == "tuned"]
    return args


def measure(row, args, srgan, python):
    steps = lambda count, warmup: ["--steps", count, "--warmup", warmup]
    what = ["-c", HERE / "gpu" / f"{row.config}.yaml", "--phase", row.phase, "--hr", args.hr, "--device", args.device]
    what += QUICK if args.quick else []
    ours = [srgan, "bench", *what, "--json"]
    counted = steps(args.steps, args.warmup)
    commands = {"srgan": [*ours, *counted]}
    commands |= {mode: [python, HERE / "peer" / "step.py", *what, "--mode", mode, *counted] for mode in args.modes}
    attempt(row, "srgan", [*ours, *steps(1, 1)])
    for number in range(1, args.pairs + 1):
        if "srgan" in row.failed:
            return
        if number == args.pairs:
            commands["srgan"] = [*commands["srgan"], "--profile"]
        for program, command in commands.items():
            result = attempt(row, program, command)
            if result:
                row.runs.setdefault(program, []).append(result)


def attempt(row, program, command):
    """The result of a run; none if the program has failed, now or before."""
    if program in row.failed:
        return None
    try:
        result = run(command)
    except Failed as error:
        row.failed[program] = str(error)
        print(f"{row.config} {row.phase}: {program} failed: {error}", file=sys.stderr)
        return None
    row.warnings += result.pop("warnings", [])
    print(f"{row.config} {row.phase} {program}: {result['step_ms_median']:.2f} ms", file=sys.stderr, flush=True)
    return result


def save(rows):
    """Writes what there is, if there is anything."""
    if any(row.runs for row in rows):
        WORK.mkdir(parents=True, exist_ok=True)
        (WORK / "gpu.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
        (WORK / "gpu.md").write_text(markdown(rows) + "\n")


def markdown(rows):
    """Head and tables."""
    command = " ".join(["python3", *map(shlex.quote, sys.argv)])
    parts = [f"```sh\n{command}\n```", "\n".join(f"- {line}" for line in head(rows))]
    header = ["config", "phase", "program", "step [ms]", "patches/s", "peak [MiB]"]
    parts.append(table([*header, "speed / tuned", "(spread)", "memory / tuned"], step_lines(rows)))
    profiled = [row for row in rows if row.profile]
    if profiled:
        parts.append(
            "The floor, at the peaks that were measured beside it: a step's operations, or its results, each written and read"
            " once, whichever take longer. The roofline is that of all plan steps one after the other."
        )
        header = ["config", "phase", "TFLOP", "[ms]", "GB", "[ms]", "roofline [ms]", "step [ms]"]
        parts.append(table([*header, "share of the floor"], [floor_line(row) for row in profiled]))
        parts.append(f"The {COSTLIEST} costliest kinds of plan steps, with their kernels:")
        header = ["config", "phase", "plan steps", "count", "ms", "of all", "TFLOP/s", "GB/s", "share of peak"]
        parts.append(table(header, [line for row in profiled for line in cost_lines(row)]))
    return "\n\n".join(parts)


def head(rows):
    """The machine, the versions, the peaks, and each warning once."""
    of = lambda program: next((row.runs[program][0] for row in rows if row.runs.get(program)), {})
    ours, theirs = of("srgan"), of("tuned")
    lines = [f"srgan {ours.get('version', '?')}, {ours.get('mode', '?')}, on {ours.get('timed_on') or ours.get('device', '?')}"]
    lines.append(", ".join(filter(None, [f"PyTorch {theirs.get('version', '?')}", theirs.get("libraries")])))
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        lines += subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pass
    peaks = next((row.profile["peaks"] for row in rows if row.profile), None) or {}
    rates = [("f32", "flops"), ("tf32", "tf32_flops"), ("bf16", "bf16_flops")]
    measured = [f"{peaks[key] / 1e12:.2f} TFLOP/s in {name}" for name, key in rates if key in peaks]
    if measured:
        lines.append(f"peaks: {', '.join(measured)}, {peaks['bandwidth'] / 1e9:.0f} GB/s")
    lines += dict.fromkeys(warning for row in rows for warning in row.warnings)
    return [line for line in lines if line]


def step_lines(rows):
    for row in rows:
        for program in ["srgan", *MODES]:
            name = "srgan" if program == "srgan" else f"PyTorch, {program}"
            if row.runs.get(program):
                speed, memory = row.ratios(program, "patches_per_s"), row.ratios(program, "peak_mem_mib")
                figures = [f"{row.median(program, key):.2f}" for key in ("step_ms_median", "patches_per_s")]
                figures.append(f"{row.median(program, 'peak_mem_mib'):.0f}")
                figures += [f"{median(speed):.2f}", spread(speed)] if speed else ["", ""]
                yield [row.config, row.phase, name, *figures, f"{median(memory):.2f}" if memory else ""]
            elif program in row.failed:
                yield [row.config, row.phase, name, "failed", *[""] * 5]


def floor_line(row):
    profile, step = row.profile, row.median("srgan", "step_ms_median")
    floor = max(profile["arithmetic_ms"], profile["traffic_ms"])
    keys = ["tflop", "arithmetic_ms", "gb", "traffic_ms", "least_ms"]
    return [row.config, row.phase, *[f"{profile[key]:.2f}" for key in keys], f"{step:.2f}", f"{floor / step:.0%}"]


def cost_lines(row):
    for line in row.profile["lines"][:COSTLIEST]:
        tflop_s = f"{line['gflop_s'] / 1e3:.1f}" if line["gflop_s"] else ""
        yield [row.config, row.phase, f"`{line['label']}`", str(line["count"]), f"{line['ms']:.3f}",
               f"{line['share']:.1%}", tflop_s, f"{line['gb_s']:.0f}", f"{line['roofline_share']:.0%}"]


def judge(rows):
    """(holds, text) of every floor."""
    verdicts = []
    for row in rows:
        name = f"{row.config} {row.phase}"
        # What rounds before a failure have shown is judged too, but does not excuse it.
        failed = [program for program in ("srgan", "tuned") if program in row.failed]
        verdicts += [(False, f"{name}: {program} failed: {reason(row.failed[program])}") for program in failed]
        speed, memory = row.ratios("srgan", "patches_per_s"), row.ratios("srgan", "peak_mem_mib")
        if not speed:
            if not failed:
                verdicts.append((False, f"{name}: not measured, the time was over"))
            continue
        speed, memory = median(speed), median(memory)
        verdicts.append((speed >= SPEED_FLOOR, f"{name}: {speed:.2f} of tuned PyTorch's speed, at least {SPEED_FLOOR}"))
        verdicts.append((memory <= MEMORY_CEILING, f"{name}: {memory:.2f} of its memory, at most {MEMORY_CEILING}"))
    return verdicts


def reason(message):
    """The line that says most: that of the error, or the last one."""
    lines = message.splitlines()
    return next((line for line in lines if line.startswith("error:")), lines[-1])


if __name__ == "__main__":
    sys.exit(main())
