#!/usr/bin/env python3
"""Compares the ONNX files of `srgan export` with `srgan predict`, by ONNX Runtime.

    pip install numpy onnx onnxruntime
    cargo build --bins
    python tests/peers/check_exports.py target/debug

Trains a small generator of every family for two steps, with an average, and exports it: the graph passes ONNX's own
checks, and gives the map of `srgan predict` within 1e-4 of its range, for odd sizes, for batches of 1 and 3, with
normalised pixels and with those of the files. Exits with 1 and what differs.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnx
import onnxruntime
from small_networks import GENERATORS, SHARE, ground, predicted, run, train

# Every normalisation, and the largest value that it takes.
RAW = {
    "normalise_10k": 10000.0,
    "normalise_10k_signed": 10000.0,
    "sen2_stretch": 0.3,
    "normalise_s2": 0.3,
    "zero_one": 1.0,
    "zero_one_signed": 1.0,
    "identity": 1.0,
}
SIZES = [(37, 29), (8, 21)]


def check(binaries, folder, name, values, normalise):
    """What differs between a network's maps and its graph's."""
    problems = []
    file = folder / f"{name}.onnx"
    run(binaries / "srgan", "export", name, "-o", file.name, *(["--normalise"] if normalise else []), cwd=folder)
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    if facts["pixels"] != ("raw" if normalise else "normalised") or facts["weights"] != "averaged":
        problems.append(f"{name}: metadata {facts}")
    rng = np.random.default_rng(2)
    worst = 0.0
    for size in SIZES:
        scenes = [values(ground(rng, *size)).astype("float32") for _ in range(3)]
        want = np.stack([predicted(binaries, folder, name, scene) for scene in scenes]).transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(np.stack(scenes).transpose(0, 3, 1, 2))
        for count in (1, 3):
            inputs = {"lr": images[:count]}
            if "noise" in facts:
                noise = np.array([float(number) for number in facts["noise"].split(",")], "float32")
                inputs["noise"] = np.repeat(noise[None], count, 0)
            got = session.run(["sr"], inputs)[0]
            away, spread = np.abs(got - want[:count]).max(), want.max() - want.min()
            # A map that its normalisation limits everywhere would agree with anything.
            if got.shape != want[:count].shape or not away <= SHARE * spread or np.unique(want).size < want.size / 4:
                problems.append(f"{file.name}, {size}, batch {count}: {away} away of a range of {spread}")
            worst = max(worst, float(away / spread))
    print(f"{file.name}: {worst:.1e} of the range")
    return problems


def main():
    binaries = Path(sys.argv[1]).resolve()
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family, generator in GENERATORS.items():
            train(binaries, folder, family, generator)
            problems += check(binaries, folder, family, lambda image: image, False)
        for method, peak in RAW.items():
            # What is in the files is multiplied by 2, then a tenth of the peak is added.
            values = lambda image: (image * peak - 0.1 * peak) / 2
            data = f"normalization: {method}, scale: 2.0, offset: {0.1 * peak}"
            train(binaries, folder, method, GENERATORS["res"], data, values)
            problems += check(binaries, folder, method, values, True)
    print("\n".join(problems) or "every graph gives the maps of srgan predict")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
