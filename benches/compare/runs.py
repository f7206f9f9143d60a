"""What all comparisons do: build srgan, install PyTorch, run a program and read its result, write tables."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "compare"
REQUIREMENTS = ["torch==2.11.0", "pyyaml==6.0.3", "numpy==2.4.6"]
RUN_LIMIT = 900


class Failed(Exception):
    """A program that could not be run."""


def add_program_arguments(parser):
    """The options that say which programs are compared."""
    parser.add_argument("--binary", type=Path, help="a srgan that is built already")
    parser.add_argument("--python", type=Path, help="an interpreter that has PyTorch already")


def programs(args, requirements=()):
    """srgan, and a Python with PyTorch and what else is required."""
    for given in (args.binary, args.python):
        if given and not given.exists():
            raise Failed(f"there is no {given}")
    # Not resolved: the interpreter of a virtual environment is a link.
    absolute = lambda path: Path(os.path.abspath(path))
    return (
        absolute(args.binary) if args.binary else build_srgan(),
        absolute(args.python) if args.python else install_peer([*REQUIREMENTS, *requirements]),
    )


def build_srgan():
    if subprocess.run(["cargo", "build", "--release", "--bin", "srgan"], cwd=ROOT).returncode:
        raise Failed("srgan does not build")
    folder = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return ROOT / folder / "release" / "srgan"


def install_peer(requirements):
    """A Python with pinned packages, those that it lacks installed now."""
    folder = WORK / "venv"
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if not python.exists():
        venv.create(folder, with_pip=True, clear=True)
    installed = stamp.read_text().split() if stamp.exists() else []
    missing = [package for package in requirements if package not in installed]
    if missing:
        print(f"installing {', '.join(missing)} into target/compare/venv", file=sys.stderr)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *missing]
        if subprocess.run(pip).returncode:
            raise Failed(f"pip could not install {', '.join(missing)}")
        names = {package.split("==")[0] for package in missing}
        kept = [package for package in installed if package.split("==")[0] not in names]
        stamp.write_text("\n".join([*kept, *missing]))
    return python


def run(command, threads=None):
    """The JSON object that a program prints in its last line, with what it warned of as its `warnings`."""
    command = [str(part) for part in command]
    done = execute(command, threads)
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise Failed(f"{' '.join(command)} printed no result") from error
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning:")]
    for line in warnings:
        print(line, file=sys.stderr)
    return {**result, "warnings": warnings}


def execute(command, threads=None):
    """A program's run, which must end well."""
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor")}
    if threads:
        env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=RUN_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)} took more than {RUN_LIMIT} s") from error
    except OSError as error:
        raise Failed(f"{' '.join(command)} does not start: {error}") from error
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.strip()}")
    return done


def table(header, lines):
    """Markdown."""
    rows = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(rows + ["| " + " | ".join(line) + " |" for line in lines])


def spread(values):
    return f"{min(values):.2f}–{max(values):.2f}"


def report(verdicts):
    """Prints what does not hold of (holds, text); 0 if all do, else 1."""
    failures = [text for holds, text in verdicts if not holds]
    print(f"{len(verdicts) - len(failures)} of {len(verdicts)} floors hold")
    for text in failures:
        print(f"FAILED {text}")
    return 1 if failures else 0
