#!/usr/bin/env python3
"""Checks the JSON Schema of `srgan config --schema` as an editor uses it.

    pip install jsonschema pyyaml
    cargo build --bins
    python tests/peers/check_schema.py target/debug configs/*.yaml

The schema is one, every configuration passes, and so does the complete file that a run writes; mistyped keys, values of
another type and out of range do not. Exits with 1 and what differs.
"""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

WRONG = [
    "Training: {max_stepz: 3}",
    "Trainig: {}",
    "Training: {max_epochs: many}",
    "Training: {max_epochs: -2}",
    "Generator: {model_type: SRResNets}",
    "Generator: {scaling_factor: 16}",
    "Data: {val_fraction: 1.0}",
    "Data: {rgb_bands: [0, 1]}",
    "Optimizers: {betas: [0.9, 1.0]}",
    "Training: {Losses: {ssim_win: 1}}",
]
RIGHT = [
    "Training: {max_epochs: '${oc.env:EPOCHS,3}'}",
    "Data: {batch_size: 4, rgb_bands: '${Training.Losses.fixed_idx}'}",
    "Generator: {model_type: cgan}",
    "Training: {gpus: [0, 1], resume: auto, val_check_interval: 0.5}",
    "Model: {in_bands: 3, load_checkpoint: False}",
    "Data: {scenes: [a.tif, [b.tif, c.tif]], hr_size: null}",
]


def main():
    srgan = Path(sys.argv[1]) / "srgan"
    run = lambda *args: subprocess.run([srgan, "config", *args], check=True, capture_output=True, text=True).stdout
    schema = json.loads(run("--schema"))
    jsonschema.Draft7Validator.check_schema(schema)
    # Without what jsonschema does not know from JSON: dates and the like do not occur here.
    check = lambda text: list(jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text)))
    problems = []
    for file in sys.argv[2:]:
        for text in (Path(file).read_text(), run(file)):
            problems += [f"{file}: {error.json_path}: {error.message}" for error in check(text)]
    least = "Model: {in_bands: 4}\n"
    problems += [f"accepted: {text}" for text in WRONG if not check(least + text)]
    for text in RIGHT:
        problems += [f"refused: {text}: {error.message}" for error in check(text if "Model" in text else least + text)]
    print("\n".join(problems) or f"the schema knows {len(sys.argv) - 2} configurations, and what is wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
