#!/usr/bin/env python3
"""Compares `srgan predict` with PyTorch and with opensr-utils on this machine: megapixels of the map per second.

    python3 benches/compare/maps.py                    # every network: half an hour
    python3 benches/compare/maps.py --only rcab --pairs 5

Builds srgan, installs PyTorch and opensr-utils into target/compare/venv, and maps a made-up scene of four bands, GeoTIFF to
GeoTIFF. In each row

- srgan makes the map as by default: it reads, joins, compresses and writes, from the start of the process to its end;
- PyTorch runs the forward pass alone on windows in memory, as many as give such a map without seams, in the best of some
  window sizes, batches and modes (peer/maps.py);
- opensr-utils makes the map with the network of PyTorch, as by default, which leaves seams, and once without.

srgan and PyTorch run in turn, and a ratio is the median of those of the pairs. Exit code 0 if every floor holds, 1 if one
does not, 2 if something could not be run.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from runs import HERE, ROOT, WORK, Failed, add_program_arguments, execute, programs, report, run, spread, table

NETWORKS = {
    "srresnet": ROOT / "configs" / "srresnet.yaml",
    "rcab": ROOT / "configs" / "rcab.yaml",
    "esrgan_4x64": HERE / "esrgan_4x64.yaml",
}
REQUIREMENTS = ["opensr-utils==2.1.0", "rasterio==1.4.4"]
# A network of as many layers whose output is no constant.
TRAINING = ["Data.dataset_type=Scenes", "Data.scenes=[data/sentinel2_10m_b2_b3_b4_b8.npy]", "Data.layout=HWC"]
TRAINING += ["Data.normalization=normalise_10k", "Data.hr_size=64", "Data.train_batch_size=2", "Data.val_fraction=0.35"]
TRAINING += ["Data.patches_per_epoch=100", "Training.max_steps=10", "Training.pretrain_g_only=true", "Training.g_pretrain_steps=-1"]
TRAINING += ["Training.limit_val_batches=0", "Training.device=cpu"]
# What srgan promises: megapixels per second over those of PyTorch's forward pass, and over opensr-utils' as by default.
FORWARD_FLOOR = 2.0
PACKAGE_FLOOR = 2.0
SUMMARY = re.compile(r": (\d+) × (\d+) × \d+ \w+ · .* · peak memory (\d+) MiB")


@dataclass
class Row:
    """One network: the best setting of PyTorch's forward pass, and the runs of each program."""

    network: str
    best: dict = field(default_factory=dict)
    srgan: list = field(default_factory=list)
    forward: list = field(default_factory=list)
    package: list = field(default_factory=list)
    exact: dict = field(default_factory=dict)

    def ratios(self, other):
        """Of each pair, srgan's figure over the other's."""
        return [a["mp_per_s"] / b["mp_per_s"] for a, b in zip(self.srgan, other)]


def main():
    args = parse_args()
    start = time.monotonic()
    try:
        srgan, python = programs(args, REQUIREMENTS)
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            rows = measure_all(args, srgan, python, Path(name))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "maps.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(f"\n{markdown(rows)}\n")
    minutes = (time.monotonic() - start) / 60
    print(f"{args.threads} threads, a scene of {args.side}², {args.pairs} pairs a row, {minutes:.0f} minutes")
    return report(judge(rows))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs per row")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--side", type=int, default=640, help="pixels along the side of the scene")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="compute threads of both")
    parser.add_argument("--folder", type=Path, help="where scene and maps lie [default: the system's temporary folder]")
    add_program_arguments(parser)
    args = parser.parse_args()
    if min(args.pairs, args.threads) < 1 or args.side < 64:
        parser.error("--pairs and --threads take numbers from 1, --side from 64")
    return args


def measure_all(args, srgan, python, folder):
    networks = [name for name in NETWORKS if args.only in name]
    if not networks:
        raise Failed(f"no network has {args.only!r} in its name; there are {', '.join(NETWORKS)}")
    scene = folder / "scene.tif"
    run([python, HERE / "peer" / "maps.py", "scene", "--side", args.side, "--out", scene])
    return [measure(Row(name), args, srgan, python, scene) for name in networks]


def measure(row, args, srgan, python, scene):
    """Fills a row."""
    config, folder = NETWORKS[row.network], scene.parent
    trained = folder / row.network
    store = [f"Data.store_dir={folder / 'store'}"]
    execute([srgan, "train", "-c", config, "--run-dir", trained, *TRAINING, *store])
    predict = [srgan, "predict", "-m", trained, scene, "-o", folder / "map.tif", "--overwrite", "--force"]
    predict += ["--device", "cpu", "--threads", args.threads]
    peer = lambda what, *more: [python, HERE / "peer" / "maps.py", what, "-c", config, "--threads", args.threads, *more]
    package = peer("opensr-utils", "--scene", scene, "--out", folder / "peer.tif", "--side", args.side)
    row.best = run(peer("tune", "--side", args.side), args.threads)
    setting = [word for key in ("window", "batch", "mode") for word in (f"--{key}", row.best[key])]
    for _ in range(args.pairs):
        row.srgan.append(timed(predict, args.threads))
        row.forward.append(run(peer("forward", "--side", args.side, *setting), args.threads))
    row.package = [run(package, args.threads)]
    if row.best["reach"] is not None:
        row.exact = run([*package, "--exact"], args.threads)
    print(f"{row.network}: {' '.join(f'{ratio:.2f}' for ratio in row.ratios(row.forward))} of PyTorch's forward pass", flush=True)
    return row


def timed(predict, threads):
    """A run of `srgan predict` from its start to its end."""
    start = time.perf_counter()
    said = execute(predict, threads).stderr
    return summary(said, time.perf_counter() - start)


def summary(said, seconds):
    """What `srgan predict` says at its end, and its speed."""
    found = SUMMARY.search(said)
    if not found:
        raise Failed(f"srgan predict does not say what it made:\n{said.strip()}")
    height, width, memory = (int(number) for number in found.groups())
    return {"seconds": seconds, "mp_per_s": height * width / 1e6 / seconds, "peak_mem_mib": memory}


def markdown(rows):
    header = ["network", "srgan [MP/s]", "PyTorch's forward", "in windows of", "ratio", "(spread)"]
    header += ["opensr-utils", "ratio", "without seams", "ratio", "peak MiB", "opensr-utils'"]
    lines = []
    for row in rows:
        ratios, ours = row.ratios(row.forward), median(result["mp_per_s"] for result in row.srgan)
        line = [row.network, f"{ours:.2f}", f"{median(result['mp_per_s'] for result in row.forward):.2f}"]
        line += [f"{row.best['window']}, {row.best['batch']} at a time, {row.best['mode']}"]
        line += [f"{median(ratios):.2f}", spread(ratios)]
        for other in (row.package[0], row.exact):
            line += [f"{other['mp_per_s']:.2f}", f"{ours / other['mp_per_s']:.2f}"] if other else ["–", "–"]
        line += [f"{max(result['peak_mem_mib'] for result in row.srgan)}", f"{row.package[0]['peak_mem_mib']:.0f}"]
        lines.append(line)
    return table(header, lines)


def judge(rows):
    """Every floor: whether it holds, and what it says."""
    verdicts = []
    for row in rows:
        forward = median(row.ratios(row.forward))
        package = median(result["mp_per_s"] for result in row.srgan) / row.package[0]["mp_per_s"]
        text = "of the megapixels per second of"
        verdicts.append((forward >= FORWARD_FLOOR, f"{row.network}: {forward:.2f} {text} PyTorch's forward, at least {FORWARD_FLOOR}"))
        verdicts.append((package >= PACKAGE_FLOOR, f"{row.network}: {package:.2f} {text} opensr-utils, at least {PACKAGE_FLOOR}"))
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
