#!/usr/bin/env python3
"""Maps a scene with a trained generator in srgan, in opensr-srgan and in opensr-utils, and compares the pixels.

    pip install torch opensr-srgan opensr-utils rasterio numpy
    cargo build --bins
    python tests/peers/check_peers_maps.py target/debug

Needs opensr-srgan 0.5 and opensr-utils 2.1; where they are not installed it says so and exits with 77. An SRResNet and an
ESRGAN are trained, exported and loaded by opensr-srgan. The map of `srgan predict`, made of many windows and not matched
with the scene, is compared with

- the forward pass of opensr-srgan over the whole scene: equal within 1e-4 of the range of values;
- opensr-utils as it is called by default: the same integers wherever a pixel is farther from the edges of its windows than
  the generator looks. Nearer, what a window does not show is zero for its network, and the blending of 8 pixels keeps some
  of that: how much is printed;
- opensr-utils with as much overlap and discarded border as the generator needs: the same integers everywhere, but for its
  cutting off of decimals where windows are blended.

Exits with 1 and what differs.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
warnings.filterwarnings("ignore")

try:
    import numpy as np
    import rasterio
    import torch
    from opensr_srgan import load_from_config
    from opensr_utils import large_file_processing
    from rasterio.transform import Affine
    from small_networks import SHARE, ground, run, train
except ImportError as absent:
    print(f"SKIPPED: maps beside opensr-srgan and opensr-utils ({absent}); pip install torch opensr-srgan opensr-utils")
    sys.exit(77)

SIZE = (211, 187)
SCALE = 4
FULL = 10000
WINDOW = 96
# opensr-utils's own default.
OVERLAP = 8
STEPS = 150
# Each with the input pixels around an output pixel that it depends on, at most.
NETWORKS = {
    "srresnet": ("{model_type: SRResNet, block_type: standard, n_channels: 8, n_blocks: 2, scaling_factor: 4}", 16),
    "esrgan": ("{model_type: esrgan, n_channels: 8, growth_channels: 5, n_blocks: 1, scaling_factor: 4}", 22),
}


def scene_of(folder):
    """A made-up scene of reflectance × 10000, uint16, with places of no detail and of much."""
    values = np.rint(FULL * ground(np.random.default_rng(3), *SIZE)).astype("uint16").transpose(2, 0, 1)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(values), "height": SIZE[0], "width": SIZE[1]}
    profile |= {"crs": "EPSG:32631", "transform": Affine(10, 0, 500000, 0, -10, 4000000), "tiled": True}
    profile |= {"blockxsize": 64, "blockysize": 64}
    with rasterio.open(folder / "scene.tif", "w", **profile) as out:
        out.write(values)
    with rasterio.open(folder / "floats.tif", "w", **(profile | {"dtype": "float32"})) as out:
        out.write(values.astype("float32"))
    return values


def ours(binaries, folder, model, scene, out):
    run(binaries / "srgan", "predict", "-m", model, scene, "-o", out, "--window", WINDOW, "--device", "cpu", cwd=folder)
    with rasterio.open(folder / out) as source:
        return source.read()


def of_opensr_utils(folder, model, overlap, border):
    """The map that opensr-utils makes, without what it prints."""
    out = folder / f"opensr_utils_{overlap}_{border}.tif"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        made = large_file_processing(
            root=str(folder / "scene.tif"),
            model=model,
            window_size=(WINDOW, WINDOW),
            factor=SCALE,
            overlap=overlap,
            eliminate_border_px=border,
            device="cpu",
            batch_size=4,
            output_path=str(out),
            overwrite=True,
        )
        made.run()
    os.environ.pop("OPENSR_RUN_ID", None)
    with rasterio.open(out) as source:
        return source.read()


def far_from_seams(reach):
    """Where no edge of a window that opensr-utils places by default is within `reach`."""
    far = []
    for length in SIZE:
        starts = [*range(0, length - WINDOW, WINDOW - OVERLAP), length - WINDOW]
        edges = [at for start in starts for at in (start, start + WINDOW) if 0 < at < length]
        pixels = np.arange(length)
        near = [(pixels >= edge - reach) & (pixels < edge + reach) for edge in edges]
        far.append(np.repeat(~np.any(near, axis=0), SCALE))
    return far[0][:, None] & far[1][None, :]


def check(binaries, folder, name, values):
    generator, reach = NETWORKS[name]
    problems = []
    expect = lambda good, what: None if good else problems.append(f"{name}: {what}")
    scaled = lambda image: (image * FULL).astype("float32")
    train(binaries, folder, name, generator, data="normalization: normalise_10k", values=scaled, steps=STEPS)
    run(binaries / "srgan", "export", name, "-o", f"{name}.ckpt", "--overwrite", cwd=folder)
    model = load_from_config(folder / f"{name}.yaml", folder / f"{name}.ckpt", map_location="cpu", mode="eval")
    with torch.inference_mode():
        want = model(torch.tensor(values.astype("float32") / FULL)[None])[0].clamp(0, 1).numpy() * FULL
    spread = want.max() - want.min()
    inside = ((want > 0) & (want < FULL)).mean()
    expect(inside > 0.5 and spread > FULL / 4, f"{inside:.0%} of the values lie inside a range of {spread:.0f}: a weak test")
    floats = ours(binaries, folder, name, "floats.tif", f"{name}_floats.tif")
    away = np.abs(floats - want).max() / spread
    expect(floats.shape == want.shape and away <= SHARE, f"{away:.1e} of the range away from opensr-srgan's forward pass")
    integers = ours(binaries, folder, name, "scene.tif", f"{name}.tif").astype("int64")

    default = np.abs(of_opensr_utils(folder, model, OVERLAP, 0) - integers)
    far = far_from_seams(reach)
    expect(0.1 < far.mean() < 0.9, f"{far.mean():.0%} of the map lie far from seams: a weak test")
    expect(default[:, far].max() <= 1, f"{default[:, far].max()} away from opensr-utils, far from its seams")
    border = reach + reach % 2
    careful = np.abs(of_opensr_utils(folder, model, 2 * border + 4, border) - integers).max()
    expect(careful <= 2, f"{careful} away from opensr-utils with a border of {border} discarded")
    print(
        f"{name}: {away:.1e} of the range from opensr-srgan; from opensr-utils {default[:, far].max()} far from seams, up to "
        f"{default.max()} of {FULL} at them, {(default > 10).any(0).mean():.1%} of the pixels by more than 10; {careful} with "
        f"{border} pixels discarded"
    )
    return problems


def main():
    binaries = Path(sys.argv[1]).resolve()
    logging.disable(logging.WARNING)
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = scene_of(folder)
        for network in NETWORKS:
            problems += check(binaries, folder, network, values)
    print("\n".join(problems) or "maps are those of opensr-srgan, and of opensr-utils away from its seams")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
