#!/usr/bin/env python3
"""Reads a run folder with other people's programs and checks what must hold.

    pip install tensorboard safetensors numpy pillow
    cargo test --test peers
    python tests/peers/check_files.py target/tmp/sample_run [--store PATCHES.npy ...]

Exits with 1 and a message for each fact that does not hold.
"""

import argparse
import csv
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class Check:
    """Collects the facts that do not hold."""

    def __init__(self):
        self.problems = []
        self.facts = 0

    def that(self, fact, message):
        self.facts += 1
        if not fact:
            self.problems.append(message)


def read_csv(folder, check):
    """metrics.csv as {column: {step: value}}."""
    path = folder / "metrics.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True))
    header, rows = rows[0], rows[1:]
    check.that(header[:2] == ["step", "epoch"], f"{path}: the header begins with {header[:2]}")
    check.that(len(set(header)) == len(header), f"{path}: a column stands there twice")
    check.that(rows, f"{path}: no rows")
    for number, row in enumerate(rows, 2):
        check.that(len(row) == len(header), f"{path}:{number}: {len(row)} cells, {len(header)} columns")
    steps = [int(row[0]) for row in rows]
    check.that(all(a < b for a, b in zip(steps, steps[1:])), f"{path}: the steps do not increase")
    return {
        name: {step: float(row[i]) for step, row in zip(steps, rows) if row[i] != ""}
        for i, name in enumerate(header)
        if i > 0
    }


def same(cell, value):
    """Whether a cell is the single-precision value that TensorBoard has."""
    with np.errstate(over="ignore"):
        cell, value = np.float32(cell), np.float32(value)
    return cell == value or (math.isnan(cell) and math.isnan(value))


def check_events(folder, columns, check):
    """Event files: the same tags and values as the csv, and images that can be decoded."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    used = {name for name, cells in columns.items() if cells}
    check.that(
        set(tags["scalars"]) == used,
        f"{folder}: only in metrics.csv: {sorted(used - set(tags['scalars']))}, "
        f"only in TensorBoard: {sorted(set(tags['scalars']) - used)}",
    )
    for tag in used & set(tags["scalars"]):
        values = {event.step: event.value for event in events.Scalars(tag)}
        check.that(len(values) == len(events.Scalars(tag)), f"{tag}: a step twice; a resume did not drop it")
        cells = columns[tag]
        check.that(values.keys() == cells.keys(), f"{tag}: other steps in TensorBoard than in metrics.csv")
        for step in values.keys() & cells.keys():
            check.that(
                same(cells[step], values[step]),
                f"{tag}, step {step}: {cells[step]} in metrics.csv, {values[step]} in TensorBoard",
            )
    for tag in tags["images"]:
        check.that(re.fullmatch(r"val/\d+", tag), f"image tag {tag}")
        for event in events.Images(tag):
            size = Image.open(io.BytesIO(event.encoded_image_string)).size
            check.that(size == (event.width, event.height), f"{tag}, step {event.step}: {size} is not the size stated")
    return {event.step for tag in tags["images"] for event in events.Images(tag)}


def check_checkpoints(folder, check):
    """*.safetensors: metadata, shapes, and finite weights."""
    paths = sorted(folder.glob("*.safetensors"))
    check.that(any(path.name == "last.safetensors" for path in paths), f"{folder}: no last.safetensors")
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads(file.metadata()["srgan"])
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        check.that(meta.get("format") == 1, f"{path}: format {meta.get('format')}")
        check.that(meta.get("config"), f"{path}: no config")
        check.that(any(name.startswith("generator.") for name in names), f"{path}: no generator")
        for name, tensor in tensors.items():
            check.that(tensor.dtype == np.float32, f"{path}: {name} is {tensor.dtype}")
            check.that(np.isfinite(tensor).all(), f"{path}: {name} has values that are not finite")
        best = re.fullmatch(r"best-step=(\d+)\.safetensors", path.name)
        if path.name == "last.safetensors":
            for entry in meta["best"]:
                check.that((folder / entry["path"]).is_file(), f"{path}: {entry['path']} is not there")
        else:
            check.that(best, f"{path}: unexpected name")
            check.that(any(entry["path"] == path.name for entry in meta["best"]), f"{path}: not in its own list")
    left = [path.name for path in folder.rglob("*.tmp")]
    check.that(not left, f"{folder}: temporary files {left}")


def check_panels(folder, image_steps, check):
    """val/*.png: four pictures of one size beside each other, with gaps of four pixels, enlarged to 256."""
    steps = set()
    for path in sorted((folder / "val").glob("*.png")):
        match = re.fullmatch(r"step_(\d+)\.png", path.name)
        check.that(match, f"{path}: unexpected name")
        if match:
            steps.add(int(match[1]))
        with Image.open(path) as image:
            image.load()
            check.that(image.mode in ("L", "RGB"), f"{path}: mode {image.mode}")
            check.that((image.width - 12) % 4 == 0, f"{path}: {image.width} pixels are not 4 pictures and 3 gaps")
            check.that(image.width >= 4 * 256 + 12 and image.height >= 256, f"{path}: only {image.size}")
            check.that(len(set(image.tobytes())) > 2, f"{path}: the picture is empty")
    missing = image_steps - steps
    check.that(not missing, f"{folder}/val: no panels of the steps {sorted(missing)}")


def check_store(path, check):
    """A patch store: an array that can be mapped, of four dimensions or fewer."""
    store = np.load(path, mmap_mode="r", allow_pickle=False)
    check.that(store.size > 0, f"{path}: empty")
    check.that(store.flags.c_contiguous, f"{path}: not in C order")
    check.that(store.dtype in (np.uint8, np.uint16, np.int16, np.float32), f"{path}: type {store.dtype}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="run folder")
    parser.add_argument("--store", type=Path, nargs="*", default=[], help="patch stores (.npy)")
    arguments = parser.parse_args()
    check = Check()
    columns = read_csv(arguments.folder, check)
    image_steps = check_events(arguments.folder, columns, check)
    check_checkpoints(arguments.folder, check)
    check_panels(arguments.folder, image_steps, check)
    for path in arguments.store:
        check_store(path, check)
    for problem in check.problems:
        print(problem, file=sys.stderr)
    print(f"{arguments.folder}: {check.facts} facts checked, {len(check.problems)} do not hold")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
