"""Maps in PyTorch and in opensr-utils, for ../maps.py; prints one JSON object.

    python maps.py scene --side 512 --out scene.tif
    python maps.py forward -c ../../../configs/srresnet.yaml --side 512 --window 256 --batch 1 --mode tuned
    python maps.py tune -c ../../../configs/srresnet.yaml --side 512
    python maps.py opensr-utils -c ../../../configs/srresnet.yaml --scene scene.tif --out map.tif --exact

`forward` times the generator alone on random windows in memory, as many as a scene of this side has when neighbours share
twice the generator's reach: nothing is read, joined or written. --mode as in step.py, all without gradients. `tune` tries
windows and batches in the mode `tuned`, the best of them in the mode `compiled`, and prints the best of all.
`opensr-utils` makes the map: as by default (8 pixels shared, seams), or with --exact so much shared and discarded that there
are none.
"""

import argparse
import contextlib
import io
import json
import resource
import time

import torch
import yaml

from networks import Generator

WINDOWS = (128, 192, 256, 384)
BATCHES = (1, 4)
# Where a generator looks everywhere, as srgan does: windows share so much, and are blended.
BLENDED = 64
# Half the side of an image that shows how far a generator looks.
FARTHEST = 96


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scene", "forward", "tune", "opensr-utils"])
    parser.add_argument("-c", "--config")
    parser.add_argument("--side", type=int, default=512, help="of the scene, in pixels")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mode", choices=["reference", "tuned", "compiled"], default="tuned")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scene")
    parser.add_argument("--out")
    parser.add_argument("--exact", action="store_true")
    return parser.parse_args()


def write_scene(path, side):
    """Smooth ground with detail and noise as a GeoTIFF file: four bands of reflectance × 10000."""
    import numpy as np
    import rasterio

    rng = np.random.default_rng(7)
    y, x, band = np.meshgrid(np.arange(side), np.arange(side), np.arange(4), indexing="ij")
    ground = 2500 + 800 * np.sin(y / 17 + band) * np.cos(x / 23) + 300 * np.sin(x * y / 900) + rng.normal(0, 60, y.shape)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 4, "height": side, "width": side, "tiled": True}
    profile |= {"blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2, "crs": "EPSG:32631"}
    profile |= {"transform": rasterio.transform.Affine(10, 0, 500000, 0, -10, 4000000)}
    with rasterio.open(path, "w", **profile) as out:
        out.write(ground.clip(1, 10000).astype("uint16").transpose(2, 0, 1))


class Map:
    """A generator and a scene of some side."""

    def __init__(self, args):
        with open(args.config) as file:
            cfg = yaml.safe_load(file)
        self.bands, self.scale, self.side = cfg["Model"]["in_bands"], cfg["Generator"]["scaling_factor"], args.side
        torch.manual_seed(1)
        self.network = Generator(self.bands, cfg["Generator"]).eval()
        self.reach = self.looks_far()
        self.overlap = BLENDED if self.reach is None else 2 * self.reach

    def looks_far(self):
        """Input pixels around an output pixel that it depends on, or None if it depends on all: NaN comes so far."""
        image = torch.zeros(1, self.bands, 2 * FARTHEST + 1, 2 * FARTHEST + 1)
        image[..., FARTHEST, FARTHEST] = torch.nan
        with torch.inference_mode():
            rows = self.network(image).isnan().any(3).any(1)[0].nonzero().flatten()
        first, last = rows[0].item(), rows[-1].item()
        reach = max(FARTHEST - first // self.scale, last // self.scale - FARTHEST)
        return None if reach == FARTHEST else reach

    def windows(self, window):
        """Windows of the scene; None where they are too small for what neighbours share."""
        window = min(window, self.side)
        if window < self.side and window <= self.overlap:
            return None
        return (-(-(self.side - window) // max(window - self.overlap, 1)) + 1) ** 2

    def forward(self, window, batch, mode, steps):
        """Megapixels of the map per second, from the median of some batches."""
        count = self.windows(window)
        layout = torch.contiguous_format if mode == "reference" else torch.channels_last
        network = self.network.to(memory_format=layout)
        run = torch.compile(network) if mode == "compiled" else network
        image = torch.rand(batch, self.bands, min(window, self.side), min(window, self.side)).to(memory_format=layout)
        times = []
        with torch.inference_mode():
            run(image)
            for _ in range(steps):
                start = time.perf_counter()
                run(image)
                times.append(time.perf_counter() - start)
        seconds = sorted(times)[len(times) // 2] * count / batch
        return {"mp_per_s": (self.side * self.scale) ** 2 / 1e6 / seconds, "window": window, "batch": batch, "mode": mode}

    def tune(self):
        tried = [
            self.forward(window, batch, "tuned", 2)
            for window in WINDOWS
            for batch in BATCHES
            if self.windows(window) and (batch == 1 or window <= WINDOWS[0])
        ]
        best = max(tried, key=lambda result: result["mp_per_s"])
        try:
            tried.append(self.forward(best["window"], best["batch"], "compiled", 2))
        except Exception as error:
            best["not_compiled"] = str(error).splitlines()[0]
        return {**max(tried, key=lambda result: result["mp_per_s"]), "tried": tried}

    def by_opensr_utils(self, args):
        """Seconds of the whole from the opened scene to the finished file."""
        from opensr_utils import large_file_processing

        overlap, border, window = 8, 0, 128
        if args.exact:
            border = self.reach + self.reach % 2
            overlap = 2 * border + 4
            window = max(window, 2 * overlap)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            large_file_processing(
                root=args.scene,
                model=self.network.to(memory_format=torch.channels_last),
                window_size=(window, window),
                factor=self.scale,
                overlap=overlap,
                eliminate_border_px=border,
                device="cpu",
                batch_size=1 if args.exact else 4,
                output_path=args.out,
                overwrite=True,
            ).run()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "mp_per_s": (self.side * self.scale) ** 2 / 1e6 / seconds}


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "scene":
        write_scene(args.out, args.side)
        result = {"scene": args.out}
    elif args.what == "forward":
        result = Map(args).forward(args.window, args.batch, args.mode, 3)
    elif args.what == "tune":
        made = Map(args)
        result = {**made.tune(), "reach": made.reach}
    else:
        result = Map(args).by_opensr_utils(args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**result, "peak_mem_mib": peak, "version": torch.__version__}))


if __name__ == "__main__":
    main()
