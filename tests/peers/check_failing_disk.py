#!/usr/bin/env python3
"""Lets a disk fail under training runs, at each kind of file, and continues them.

    pip install safetensors numpy
    cargo build --bin srgan-train
    python tests/peers/check_failing_disk.py target/debug/srgan-train

A library that is loaded before the C library fails the writes (syncs, renames) of one kind of file from the n-th on, with
"no space left". A run may end for it, with exit code 1 and a message that names a file of its folder, or go on without what is
no state. The run that continues must end with the tensors and the rows of a run that met no failure. Needs a C compiler.
Exits with 1 and what differs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* Counts a call on a file whose path has the text FAIL_FILE in it; whether it is to fail. */
static int fails(const char *call, const char *path) {
    static atomic_int count;
    const char *what = getenv("FAIL_CALL"), *file = getenv("FAIL_FILE"), *from = getenv("FAIL_FROM");
    if (!what || !file || !from || strcmp(what, call) || !strstr(path, file)) return 0;
    if (atomic_fetch_add(&count, 1) + 1 < atoi(from)) return 0;
    errno = ENOSPC;
    return 1;
}

static int fd_fails(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    path[len > 0 ? len : 0] = 0;
    return fails(call, path);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return fd_fails("write", fd) ? -1 : next(fd, bytes, len);
}
int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return fd_fails("sync", fd) ? -1 : next(fd);
}
int fdatasync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return fd_fails("sync", fd) ? -1 : next(fd);
}
int rename(const char *from, const char *to) {
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    return fails("rename", to) ? -1 : next(from, to);
}
"""
CONFIG = """\
Data: {dataset_type: Scenes, scenes: [scene.npy], layout: HWC, normalization: normalise_10k, hr_size: 16, val_fraction: 0.3,
  patches_per_epoch: 8, train_batch_size: 2, val_batch_size: 2, num_workers: 1}
Model: {in_bands: 3}
Training: {device: cpu, num_threads: 1, seed: 3, max_steps: 12, pretrain_g_only: true, g_pretrain_steps: 6,
  adv_loss_ramp_steps: 2, val_check_interval: 4, limit_val_batches: 1, checkpoint_minutes: 0.0001,
  EMA: {enabled: true, decay: 0.9, update_after_step: 2}}
Generator: {model_type: SRResNet, block_type: res, n_channels: 8, n_blocks: 1, large_kernel_size: 3, scaling_factor: 2}
Discriminator: {model_type: patchgan, n_blocks: 1}
Logging: {num_val_images: 1, wandb: {enabled: true}}
"""
# Files of a run, the calls that fail on them, and from which on.
CASES = [
    ("metrics.csv", "write", (2, 5, 9)),
    ("metrics.csv", "sync", (1, 2, 4)),
    ("events.out", "write", (1, 4, 11)),
    (".wandb", "write", (2, 6, 10)),
    ("media/images", "write", (1, 2)),
    ("val/", "write", (1, 2, 3)),
    ("val/", "rename", (1, 3)),
    ("last.safetensors", "write", (1, 7, 20)),
    ("last.safetensors", "sync", (1, 2, 4)),
    ("last.safetensors", "rename", (1, 2, 5)),
    ("best-step", "write", (1, 9)),
    ("best-step", "rename", (1, 2)),
    ("report.html", "write", (1, 2)),
    ("run.json", "rename", (1, 2)),
    ("train.log", "write", (1, 6)),
    ("config.yaml", "write", (1,)),
]


class Runs:
    """A folder in which the program runs."""

    def __init__(self, folder, program):
        self.folder, self.program = Path(folder), str(Path(program).resolve())
        rng = np.random.default_rng(5)
        scene = 4000 + 3000 * np.tanh(rng.standard_normal((96, 96, 3)).cumsum(0).cumsum(1) / 40)
        np.save(self.folder / "scene.npy", scene.astype("uint16"))
        (self.folder / "cfg.yaml").write_text(CONFIG)
        (self.folder / "shim.c").write_text(SHIM)
        self.shim = str(self.folder / "shim.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self.shim, str(self.folder / "shim.c"), "-ldl"], check=True)

    def train(self, *args, **failing):
        env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        env |= {"LD_PRELOAD": self.shim, **failing} if failing else {}
        command = [self.program, "-c", "cfg.yaml", *args]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def outcome(self, run):
        tensors = load_file(self.folder / run / "last.safetensors")
        return {k: v.tobytes() for k, v in tensors.items()}, (self.folder / run / "metrics.csv").read_text()


def check(runs, want, file, call, start):
    what = f"{call} of {file} from number {start} on"
    code, text = runs.train("--run-dir", "run", FAIL_FILE=file, FAIL_CALL=call, FAIL_FROM=str(start))
    assert code in (0, 1) and "panicked" not in text, f"{what}: exit code {code}\n{text}"
    if code == 1:
        said = re.search(r"^error: .*run/", text, re.MULTILINE) and "No space left" in text
        assert said, f"{what}: the message does not name the file\n{text}"
    if not (runs.folder / "run/last.safetensors").exists():
        # Nothing was trained that could be lost.
        assert code == 1 and "continue with" not in text, f"{what}: no state, but\n{text}"
        shutil.rmtree(runs.folder / "run")
        again, more = runs.train("--run-dir", "run")
    else:
        again, more = runs.train("--resume", "run")
    assert again == 0, f"{what}: exit code {again} of the run that continues\n{more}"
    tensors, rows = runs.outcome("run")
    assert tensors == want[0], f"{what}: other tensors\n{text}\n{more}"
    assert rows == want[1], f"{what}: other rows of metrics.csv\n{rows}\n{want[1]}\n{text}\n{more}"
    left = [path.name for path in (runs.folder / "run").rglob(".*.tmp")]
    assert not left, f"{what}: {left} is left"
    shutil.rmtree(runs.folder / "run")
    return code


def main():
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder, sys.argv[1])
        code, text = runs.train("--run-dir", "whole")
        assert code == 0, text
        want = runs.outcome("whole")
        codes = [check(runs, want, file, call, n) for file, call, starts in CASES for n in starts]
    ended = sum(code == 1 for code in codes)
    assert ended > len(codes) // 3, f"only {ended} runs met the failure"
    print(f"{len(codes)} runs on a failing disk, of which {ended} ended for it: continued, with the same bits and rows")


if __name__ == "__main__":
    main()
