#!/usr/bin/env python3
"""Compares what srgan reads from GeoTIFF files with what GDAL reads from them.

    pip install rasterio numpy
    cargo build --bin srgan-train
    python tests/peers/check_geotiffs.py target/debug/srgan-train

Writes a few hundred small files by GDAL: pixel types, compressions, predictors, strips and tiles, pixel and band
interleaving, sizes, byte orders, classic and BigTIFF, bits a sample, no-data values and masks. Dry runs unpack them
into patch stores; their pixels and masked pixels must equal GDAL's. Exits with 1 and the name of each file that differs.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
warnings.filterwarnings("ignore", category=RuntimeWarning)

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
PREDICTED = ["lzw", "deflate", "zstd"]
LAYOUTS = [
    {"blockysize": 7},
    {"blockysize": 7, "interleave": "band"},
    {"tiled": True, "blockxsize": 64, "blockysize": 32},
    {"tiled": True, "blockxsize": 32, "blockysize": 48, "interleave": "band"},
]
SIZES = [(97, 75), (64, 64), (130, 41), (40, 131), (33, 200)]
ORDERS = [{}, {"ENDIANNESS": "BIG"}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG", "BIGTIFF": "YES"}]
BANDS = 3
STORED = {"u8": "u1", "u16": "<u2", "i16": "<i2", "f32": "<f4"}

CONFIG = """\
Data:
  dataset_type: Scenes
  scenes: {scenes}
  store_dir: {store}
  normalization: identity
  check_range: false
  hr_size: 8
  val_fraction: 0.4
  num_workers: 0
Model: {{in_bands: {bands}}}
Training: {{device: cpu, num_threads: 1, Losses: {{ssim_win: 7}}}}
Generator: {{block_type: res, n_channels: 4, n_blocks: 1, large_kernel_size: 3, scaling_factor: 2}}
Discriminator: {{model_type: patchgan, n_blocks: 1}}
"""


def pixels(dtype, size, bits=None):
    """Smooth and rough ground in one image, so that every compression has runs and surprises."""
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    y, x, b = np.meshgrid(np.arange(size[0]), np.arange(size[1]), np.arange(BANDS), indexing="ij")
    rough = rng.integers(0, 1 << 20, size=(*size, BANDS))
    values = np.where(x > y, y * 3 + x + b * 40, rough)
    if dtype.startswith("float"):
        return (values / 8 - 1000).astype(dtype)
    info = np.iinfo(dtype)
    top = 1 << (bits or min(info.bits - (info.min < 0), 20))
    return (values % top - (top // 2 if info.min < 0 else 0)).astype(dtype)


def cases():
    """Names and creation options: (name, type, size, options, extra)."""
    counter = itertools.count()
    for dtype in TYPES:
        codecs = [("none", 1), ("packbits", 1)] + ([("lerc", 1)] if dtype != "int8" else [])
        codecs += [(codec, predictor) for codec in PREDICTED for predictor in (1, 2)]
        codecs += [(codec, 3) for codec in PREDICTED if dtype.startswith("float")]
        for (codec, predictor), layout in itertools.product(codecs, LAYOUTS):
            number = next(counter)
            options = {**layout, **ORDERS[number // 4 % len(ORDERS)]}
            if codec != "none":
                options["compress"] = codec
            if predictor > 1:
                options["predictor"] = predictor
            if codec == "lerc":
                options["max_z_error"] = 0
            yield f"{dtype}_{codec}_{predictor}_{number}", dtype, SIZES[number % len(SIZES)], options, {}
    for bits in [*range(1, 8), *range(9, 16)]:
        dtype = "uint8" if bits < 8 else "uint16"
        for layout, codec in zip(LAYOUTS, ["none", "lzw", "deflate", "none"]):
            number = next(counter)
            options = {**layout, **ORDERS[number // 4 % len(ORDERS)], "nbits": bits, "compress": codec}
            yield f"nbits{bits}_{codec}_{number}", dtype, SIZES[number % len(SIZES)], options, {"bits": bits}
    for kind, dtype, layout in itertools.product(["internal", "beside", "nodata", "nan"], ["uint16", "float32"], LAYOUTS):
        number = next(counter)
        options = {**layout, **ORDERS[number // 4 % len(ORDERS)], "compress": "deflate"}
        if kind in ("nodata", "nan"):
            options["nodata"] = float("nan") if kind == "nan" and dtype == "float32" else 0
        yield f"mask_{kind}_{dtype}_{number}", dtype, SIZES[number % len(SIZES)], options, {"mask": kind}


def write(path, dtype, size, options, extra):
    array = pixels(dtype, size, extra.get("bits"))
    mask = extra.get("mask")
    if mask in ("nodata", "nan"):
        array[array == 0] = 1
        array[2:6, 3:20, 1] = np.nan if options["nodata"] != 0 else 0
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": BANDS, "dtype": dtype, **options}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask == "internal"), rasterio.open(path, "w", **profile) as out:
        out.write(np.moveaxis(array, -1, 0))
        if mask in ("internal", "beside"):
            valid = np.full(size, 255, "uint8")
            valid[1:5, 2:19] = 0
            valid[7, ::3] = 0
            out.write_mask(valid)


def expected(path):
    """Pixels (rows, columns, bands) and masked pixels, as GDAL reads them."""
    with rasterio.open(path) as source:
        array = np.moveaxis(source.read(), 0, -1)
        masked = (source.read_masks() == 0).any(axis=0)
    return array, masked | ~np.isfinite(array.astype("float64")).all(axis=-1)


def stored(index_path):
    """The same from a patch store."""
    index = json.loads(index_path.read_text())
    [image] = index["images"]
    size = (image["height"], image["width"])
    data = np.load(index_path.parent / index["data"], allow_pickle=False)
    masked = np.zeros(size, bool)
    if index["masked_runs"]:
        for row, first, end in np.load(index_path.with_suffix(".masked.npy"), allow_pickle=False):
            masked[row, first:end] = True
    assert data.dtype == np.dtype(STORED[index["dtype"]]), f"{index_path}: {data.dtype} in the array"
    return Path(image["file"]), data.reshape(*size, index["bands"]), masked


def unpack(binary, folder, files):
    """Reads files of one type by a dry run."""
    config = folder / "config.yaml"
    store = folder / "store"
    config.write_text(CONFIG.format(scenes=json.dumps([str(file) for file in files]), store=json.dumps(str(store)), bands=BANDS))
    run = subprocess.run([binary, "-c", config, "--dry-run"], capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        sys.exit(f"exit code {run.returncode} for files like {files[0].name}:\n{run.stderr}")
    return {file: (array, masked) for file, array, masked in map(stored, store.glob("*.json"))}


def main():
    binary = Path(sys.argv[1]).resolve()
    problems, count = [], 0
    with tempfile.TemporaryDirectory() as name:
        groups = {}
        for number, (title, dtype, size, options, extra) in enumerate(cases()):
            folder = Path(name) / dtype
            folder.mkdir(exist_ok=True)
            path = folder / f"{title}.tif"
            write(path, dtype, size, options, extra)
            groups.setdefault(dtype, []).append(path)
        for dtype, files in groups.items():
            found = unpack(binary, files[0].parent, files)
            for file in files:
                count += 1
                array, masked = expected(file)
                if file not in found:
                    problems.append(f"{file.name}: no store")
                    continue
                ours, our_mask = found[file]
                if ours.shape != array.shape or not np.array_equal(ours, array.astype(ours.dtype), equal_nan=True):
                    problems.append(f"{file.name}: other pixels")
                if not np.array_equal(our_mask, masked):
                    problems.append(f"{file.name}: {our_mask.sum()} masked pixels, {masked.sum()} by GDAL")
    print("\n".join(problems) or f"{count} files are read as GDAL reads them")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
