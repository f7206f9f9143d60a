#!/usr/bin/env python3
"""Trains as jobs of a real SLURM: two nodes on this machine, with the files of configs/slurm.

    pip install mpich safetensors numpy
    cargo build --bin srgan-train
    python tests/slurm/check_slurm.py target/debug/srgan-train

Ranks on two nodes by `srun --mpi=pmi2`; `scontrol requeue` in the middle of training; a time limit announced by
`--signal` (left out with --short); an array of three jobs. All end with the same bits as runs that nothing interrupted.
Starts munge, slurmctld and two slurmd in a folder of its own, and ends them. Needs root; installs Debian's slurm-wlm where it
is missing. Exits with 77 and says so where there is no SLURM to be had, with 1 and what differs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

BIN = Path(sys.executable).parent
FILES = Path(__file__).resolve().parents[2] / "configs" / "slurm"
PROGRAMS = ["slurmctld", "slurmd", "srun", "sbatch", "scontrol", "munged", "munge"]
SKIPPED = 77
CONFIG = """\
Data: {dataset_type: Scenes, scenes: [scene.npy], layout: HWC, normalization: normalise_10k, hr_size: 16, val_fraction: 0.3,
  patches_per_epoch: 32, train_batch_size: 2, val_batch_size: 2, num_workers: 1, store_dir: store}
Model: {in_bands: 3}
Training: {device: cpu, num_threads: 1, seed: 3, max_epochs: -1, pretrain_g_only: true, g_pretrain_steps: 20,
  adv_loss_ramp_steps: 20, val_check_interval: 50, limit_val_batches: 3, checkpoint_minutes: 0.01, dist_timeout: 60}
Generator: {model_type: SRResNet, block_type: standard, n_channels: 8, n_blocks: 1, large_kernel_size: 3, scaling_factor: 2}
Discriminator: {model_type: patchgan, n_blocks: 1}
Optimizers: {optim_g_lr: 1.0e-4, optim_d_lr: 1.0e-4, eps: 1.0e-4}
Logging: {num_val_images: 1}
"""
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPort={port}
KillWait=10
MpiDefault=none
SchedulerParameters=sched_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=1000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=1000 Gres=gpu:2
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
# What the nodes of this machine have less of than those that the files are for.
SMALL = ["--cpus-per-task=1", "--mem=0"]


def install():
    """Whether SLURM is there, or could be installed."""
    missing = lambda: [name for name in PROGRAMS if not shutil.which(name)]
    if os.geteuid() != 0:
        return "only root can start it"
    if missing() and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        command = ["apt-get", "install", "--yes", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]
        subprocess.run(command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    return f"there is no {', '.join(missing())}" if missing() else None


class Cluster:
    """A SLURM of two nodes, all of whose state is in a folder."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        for name in ("state", "spool.n1", "spool.n2"):
            (folder / name).mkdir(parents=True)
        port = 20000 + os.getpid() % 10000 * 4
        host = os.uname().nodename.split(".")[0]
        conf = SLURM_CONF.format(host=host, folder=folder, port=port, port1=port + 1, port2=port + 2)
        (folder / "slurm.conf").write_text(conf)
        # Jobs that ask for GPUs are started; what they are given is no GPU.
        gpus = [f"NodeName=n[1-2] Name=gpu File={file}\n" for file in ("/dev/null", "/dev/zero")]
        (folder / "gres.conf").write_text("".join(gpus))
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")

    def __enter__(self):
        try:
            self.munge()
            self.daemon(["slurmctld", "-D"])
            for node in ("n1", "n2"):
                self.daemon(["slurmd", "-D", "-N", node])
            idle = lambda: text_of(["sinfo", "-h", "-t", "idle", "-o", "%D"]).strip() == "2"
            wait("two idle nodes", idle, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def daemon(self, command, **more):
        log = open(self.folder / f"daemon{len(self.started)}.log", "w")
        self.started.append(subprocess.Popen(command, stdout=log, stderr=log, **more))

    def munge(self):
        answers = lambda: subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0
        if answers():
            return
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge")
        self.daemon(["munged", "--foreground"], user="munge", group="munge", extra_groups=[])
        wait("munge", answers, 30)

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def text_of(command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait(what, holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


class Runs:
    """A folder in which jobs run, with a scene, a configuration and the program on PATH."""

    def __init__(self, folder, program):
        self.folder = folder
        folder.mkdir()
        steps = np.random.default_rng(5).standard_normal((96, 96, 3)).cumsum(0).cumsum(1)
        np.save(folder / "scene.npy", (4000 + 3000 * np.tanh(steps / 40)).astype("uint16"))
        (folder / "cfg.yaml").write_text(CONFIG)
        (folder / "bin").mkdir()
        (folder / "bin" / "srgan-train").symlink_to(Path(program).resolve())
        # Runs the command behind its options and the image.
        apptainer = folder / "bin" / "apptainer"
        apptainer.write_text('#!/bin/sh\n[ "$1 $2 $3" = "exec --nv srgan.sif" ] || exit 9\nshift 3\nexec "$@"\n')
        apptainer.chmod(0o755)
        self.env = os.environ | {"PATH": f"{folder}/bin:{BIN}:{os.environ['PATH']}", "VIRTUAL_ENV": str(BIN.parent)}

    def run(self, command):
        done = subprocess.run(command, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, name, options, *args):
        command = ["sbatch", "--parsable", f"--output=slurm-%A_%a.out", *SMALL, *options, str(FILES / name), "cfg.yaml", *args]
        return self.run(command).strip()

    def state(self, job):
        return re.search(r"JobState=(\w+)", text_of(["scontrol", "show", "job", "-o", job]) + "JobState=GONE")[1]

    def ended(self, job, seconds=300):
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
        wait(f"the end of job {job}", lambda: self.state(job) not in going, seconds)
        assert self.state(job) == "COMPLETED", f"job {job} is {self.state(job)}\n{self.said(job)}"

    def said(self, job):
        """What a job, or all tasks of one, printed."""
        job = job.split("_")
        pattern = f"slurm-{job[0]}_{job[1] if len(job) > 1 else '*'}.out"
        return "".join(path.read_text() for path in sorted(self.folder.glob(pattern)))

    def requeue_when_saved(self, job, run):
        last = self.folder / run / "last.safetensors"
        wait(f"a checkpoint of job {job}", lambda: last.exists() or self.state(job) == "FAILED", 120)
        self.run(["scontrol", "requeue", job])

    def same(self, run, reference):
        a, b = (load_file(self.folder / name / "last.safetensors") for name in (run, reference))
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a), f"{run} differs from {reference}"

    def says(self, job, *parts):
        text = self.said(job)
        for part in parts:
            assert part in text, f"job {job} does not say {part!r}:\n{text}"


def two_nodes(runs):
    command = ["srun", "-N2", "-n2", "--mpi=pmi2", "srgan-train", "-c", "cfg.yaml", "Training.max_steps=400"]
    text = runs.run([*command, "--run-dir", "whole"])
    assert "2 ranks of this device, started by SLURM" in text, text
    nodes = ["--nodes=2", "--ntasks-per-node=1"]
    job = runs.submit("cpu_nodes.sbatch", nodes, "Training.max_steps=400", "--run-dir", "requeued")
    runs.requeue_when_saved(job, "requeued")
    runs.ended(job)
    runs.says(job, f"SLURM job {job}, queued again once", "continuing at step")
    runs.same("requeued", "whole")
    print("two nodes: a job that was queued again in the middle has the bits of one that was not")


def time_limit(runs):
    """Two jobs of a minute that train for longer. SLURM sends the signal 15 to 45 s after their start."""
    few, start = 400, time.monotonic()
    runs.run(["srgan-train", "-c", "cfg.yaml", f"Training.max_steps={few}", "--run-dir", "speed"])
    steps = f"Training.max_steps={int(few * 75 / (time.monotonic() - start))}"
    jobs = {}
    for name in ("one_gpu", "apptainer"):
        options = ["--time=1", "--signal=USR1@15"]
        jobs[name] = runs.submit(f"{name}.sbatch", options, steps, "--run-dir", name)
    runs.run(["srgan-train", "-c", "cfg.yaml", steps, "--run-dir", "long"])
    for name, job in jobs.items():
        runs.ended(job, 900)
        runs.says(job, "SIGUSR1; continue with --resume", "continuing at step")
        runs.same(name, "long")
        times = runs.said(job).count("SIGUSR1; continue with")
        print(f"{name}: stopped {times} times ahead of its time limit, queued again by itself: the same bits")


def array(runs):
    steps = "Training.max_steps=600"
    job = runs.submit("job_array.sbatch", [], steps)
    task = f"{job}_2"
    runs.requeue_when_saved(task, f"logs/srgan/job_{job}_2")
    for seed in "123":
        runs.ended(f"{job}_{seed}")
        runs.run(["srgan-train", "-c", "cfg.yaml", steps, f"Training.seed={seed}", "--run-dir", f"seed{seed}"])
        runs.same(f"logs/srgan/job_{job}_{seed}", f"seed{seed}")
    runs.says(task, f"task 2 of array job {job}), queued again once", "continuing at step")
    print("three jobs of an array, one queued again in the middle: each has continued its own run")


def main():
    why = install()
    if why:
        print(f"SLURM: SKIPPED, {why}")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder) / "slurm"):
        runs = Runs(Path(folder) / "runs", sys.argv[1])
        # Jobs that come to their time limit wait minutes until SLURM starts them again.
        checks = (two_nodes, array) if "--short" in sys.argv else (two_nodes, time_limit, array)
        for check in checks:
            check(runs)


if __name__ == "__main__":
    main()
