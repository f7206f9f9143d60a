#!/usr/bin/env python3
"""Trains on several ranks over MPI and compares with one process.

    pip install mpich safetensors numpy
    cargo build --bin srgan-train
    python tests/peers/check_ranks.py target/debug/srgan-train [--kills 50]

Ranks of a network without batch statistics equal one process with as many times the batch, up to rounding; a run is the
same twice, and when it is stopped and continued; it continues on other numbers of ranks; a signal to one rank stops all
with the state saved; a rank that is killed or fails ends all. With `sync_batchnorm` the same holds for networks with batch
norm. Ranks killed at random moments, as often as --kills says (3), lose no checkpoint and no bit. Exits with 1 and what
differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

BIN = str(Path(sys.executable).parent)
CONFIG = """\
Data: {dataset_type: Scenes, scenes: [scene.npy], layout: HWC, normalization: normalise_10k, hr_size: 16, val_fraction: 0.3,
  patches_per_epoch: 32, train_batch_size: 2, val_batch_size: 2, num_workers: 1, store_dir: store}
Model: {in_bands: 3}
Training: {device: cpu, num_threads: 1, seed: 3, max_steps: 10, pretrain_g_only: true, g_pretrain_steps: 4,
  adv_loss_ramp_steps: 2, val_check_interval: 5, limit_val_batches: 3, dist_timeout: 30,
  EMA: {enabled: true, decay: 0.9, update_after_step: 2}, Losses: {r1_gamma: 0.5}}
Generator: {model_type: SRResNet, block_type: res, n_channels: 8, n_blocks: 1, large_kernel_size: 3, scaling_factor: 2}
Discriminator: {model_type: patchgan, n_blocks: 1}
Optimizers: {optim_g_lr: 1.0e-4, optim_d_lr: 1.0e-4, eps: 1.0e-4}
Logging: {num_val_images: 1}
"""
LONG = ["Training.max_steps=100000", "Training.checkpoint_minutes=0.002"]
# Batch norm in both networks, and the means of a relativistic loss.
BATCH_NORM = ["Generator.block_type=standard", "Discriminator.model_type=standard", "Discriminator.n_blocks=2",
  "Discriminator.use_spectral_norm=false", "Training.Losses.relativistic_average_d=true"]
STOPPED = 75
# How long ranks wait for one that is gone, and what a process may take beside.
TIMEOUT, PATIENCE = 20, 40


class Runs:
    """A folder in which the program runs."""

    def __init__(self, folder, program):
        self.folder, self.program = Path(folder), str(Path(program).resolve())
        rng = np.random.default_rng(5)
        steps = rng.standard_normal((96, 96, 3)).cumsum(0).cumsum(1)
        scene = 4000 + 3000 * np.tanh(steps / 40)
        np.save(self.folder / "scene.npy", scene.astype("uint16"))
        (self.folder / "cfg.yaml").write_text(CONFIG)
        self.env = os.environ | {"VIRTUAL_ENV": str(Path(BIN).parent), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def command(self, ranks, run, *args):
        train = [self.program, "-c", "cfg.yaml", "--run-dir", run, *args]
        return train if ranks == 1 else [f"{BIN}/mpiexec", "-n", str(ranks), *train]

    def start(self, command):
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def train(self, ranks, run, *args, code=0):
        process = self.start(self.command(ranks, run, *args))
        text, _ = process.communicate(timeout=300)
        assert process.returncode == code, f"{run}: exit code {process.returncode}, not {code}\n{text}"
        return text

    def tensors(self, run):
        return load_file(self.folder / run / "last.safetensors")

    def ranks_of(self, run):
        """Process numbers of the ranks, in their order."""
        found = {}
        for proc in Path("/proc").iterdir():
            try:
                args = (proc / "cmdline").read_bytes().split(b"\0")
                if args[0].decode() == self.program and run.encode() in args:
                    env = dict(e.split(b"=", 1) for e in (proc / "environ").read_bytes().split(b"\0") if b"=" in e)
                    found[int(env[b"PMI_RANK"])] = int(proc.name)
            except (OSError, KeyError, IndexError):
                pass
        return [found[rank] for rank in sorted(found)]

    def during(self, run, act, *args):
        """Starts a long run of two ranks, acts on their processes after the first checkpoint; exit code and text."""
        process = self.start(self.command(2, run, *LONG, *args))
        deadline = time.monotonic() + 120
        while not (self.folder / run / "last.safetensors").exists():
            assert time.monotonic() < deadline and process.poll() is None, f"{run} does not come to a checkpoint"
            time.sleep(0.05)
        act(self.ranks_of(run))
        text, _ = process.communicate(timeout=90)
        return process.returncode, text


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def distance(a, b):
    """The largest relative L2 distance of tensors, moments left out: these begin near 0."""
    norm = lambda x: float(np.sqrt((x.astype("f8") ** 2).sum()))
    names = [k for k in a if not k.startswith("optim")]
    return max((norm(a[k].astype("f8") - b[k]) / max(norm(b[k]), 1e-3), k) for k in names)


def rows(runs, run):
    return (runs.folder / run / "metrics.csv").read_bytes()


def validations(runs, run):
    lines = [line.split(",") for line in (runs.folder / run / "metrics.csv").read_text().splitlines()]
    columns = [i for i, name in enumerate(lines[0]) if name.startswith("val_metrics/")]
    rows = [[float(line[i]) for i in columns] for line in lines[1:] if line[columns[0]]]
    return np.array(rows)


def equal_to_one_process(runs):
    for name, one, two in [
        ("plain", ["Data.train_batch_size=4"], []),
        ("parts", ["Data.train_batch_size=4", "Training.accumulate_grad_batches=2"], ["Training.accumulate_grad_batches=2"]),
        ("synced", ["Data.train_batch_size=4", *BATCH_NORM], [*BATCH_NORM, "Training.sync_batchnorm=true"]),
    ]:
        runs.train(1, f"{name}1", *one)
        text = runs.train(2, f"{name}2", *two)
        assert "2 ranks of this device" in text, text
        far, tensor = distance(runs.tensors(f"{name}2"), runs.tensors(f"{name}1"))
        assert far < 2e-4, f"{name}: {tensor} of two ranks is {far:.1e} from that of one process"
        got, want = validations(runs, f"{name}2"), validations(runs, f"{name}1")
        assert got.shape == want.shape and np.allclose(got, want, rtol=1e-3), f"{name}: validations\n{got}\n{want}"
        print(f"two ranks and one process, {name}: {far:.1e} ({tensor})")


def same_bits(runs):
    runs.train(2, "again")
    assert same(runs.tensors("plain2"), runs.tensors("again")), "two runs of two ranks differ"
    runs.train(2, "split", "Training.max_steps=6")
    runs.train(2, "split", "--resume", "split")
    assert same(runs.tensors("plain2"), runs.tensors("split")), "a continued run of two ranks differs"
    assert rows(runs, "plain2") == rows(runs, "again") == rows(runs, "split"), "metrics of equal runs differ"
    print("two runs, and one that was continued: the same bits")


def other_numbers_of_ranks(runs):
    runs.train(2, "elastic", "Training.max_steps=4")
    for ranks, steps in [(1, 6), (3, 9)]:
        text = runs.train(ranks, "elastic", "--resume", "elastic", f"Training.max_steps={steps}")
        assert f"goes on with {ranks}" in text, text
    print("2, then 1, then 3 ranks: continued, and said so")


def stops_and_failures(runs):
    code, text = runs.during("stopped", lambda ranks: os.kill(ranks[1], signal.SIGTERM))
    assert code == STOPPED, f"SIGTERM to rank 1: exit code {code}\n{text}"
    assert "continue with --resume" in text, text
    code, text = runs.during("killed", lambda ranks: os.kill(ranks[1], signal.SIGKILL))
    assert code != 0, "a run with a killed rank ended well"
    hang = lambda ranks: os.kill(ranks[1], signal.SIGSTOP)
    code, text = runs.during("hung", hang, "Training.dist_timeout=3")
    assert code != 0 and "rank 0 of 2 has waited" in text, f"a rank that hangs: exit code {code}\n{text}"
    for run in ("stopped", "killed", "hung"):
        steps = LONG[1:] + ["Training.max_steps=1"]
        text = runs.train(2, run, "--resume", run, *steps)
        assert "continuing at step" in text, text

    two = lambda a, b: [f"{BIN}/mpiexec", "-n", "1", runs.program, *a, ":", "-n", "1", runs.program, *b]
    args = ["-c", "cfg.yaml", "--run-dir", "refused"]
    for command, code, said in [
        (two(args, [*args, "Training.seed=9"]), 2, "the configuration of rank 1 is not that of rank 0"),
        (two(args, ["-c", "none.yaml"]), 2, "rank 1 of 2: none.yaml"),
        (two([*args, "--device", "cuda"], [*args, "--device", "cuda"]), 2, "2 ranks train on CPUs only"),
    ]:
        process = runs.start(command)
        text, _ = process.communicate(timeout=90)
        assert process.returncode == code and said in text, f"exit code {process.returncode}, without {said!r}:\n{text}"
    print("a signal to one rank, one that is killed or hangs, and ranks that differ: all end, nothing is lost")


def random_kills(runs, kills):
    """Runs that are continued as often as a random one of their ranks is killed, and end with the bits of one that never was."""
    args = ["Training.max_steps=60", "Training.checkpoint_minutes=0.001", f"Training.dist_timeout={TIMEOUT}"]
    start = time.monotonic()
    runs.train(2, "alive", *args)
    whole, dice = time.monotonic() - start, random.Random(11)
    killed, attempts, at_rest = 0, 0, 0
    while killed < kills:
        run = f"mortal{attempts}"
        attempts += 1
        ended = False
        while not ended:
            process = runs.start(runs.command(2, run, "--resume", "auto", *args))
            time.sleep(dice.uniform(0, 0.7 * whole))
            ranks = runs.ranks_of(run) if killed < kills else []
            if ranks:
                try:
                    os.kill(dice.choice(ranks), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
            try:
                text, _ = process.communicate(timeout=TIMEOUT + PATIENCE if killed < kills else 300)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{run} hangs after kill {killed}")
            ended = process.returncode == 0
            last = runs.folder / run / "last.safetensors"
            if last.exists():
                load_file(last)
            elif not ended:
                at_rest += 1
        assert same(runs.tensors(run), runs.tensors("alive")), f"{run} differs from a run that nobody killed"
        assert rows(runs, run) == rows(runs, "alive"), f"{run} has other metrics"
    print(f"{killed} kills of a random rank in {attempts} runs, {at_rest} before the first checkpoint: the same bits")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder, args.program)
        for check in (equal_to_one_process, same_bits, other_numbers_of_ranks, stops_and_failures):
            check(runs)
        random_kills(runs, args.kills)


if __name__ == "__main__":
    main()
