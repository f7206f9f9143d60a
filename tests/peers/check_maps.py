#!/usr/bin/env python3
"""Compares the maps of `srgan predict` with what GDAL and rio-cogeo read from them.

    pip install rasterio rio-cogeo numpy
    cargo build --bins
    python tests/peers/check_maps.py target/debug

Trains two networks for a step, writes scenes by GDAL (pixel types, no-data values, masks, areas and points, turned
transforms, ground control points, names, scales and offsets of bands) and maps them. Of each map: it is a valid
Cloud-Optimized GeoTIFF; reference system, transform, type, no-data value, names, scales and offsets are the scene's;
pixels and masks are those of the array that the same command writes; overviews are the means of the pixels that have a
value. A Sentinel-2 product gives the maps of its bands as GDAL reads them, less its offset, and an archive of one the map of
its folder. Exits with 1 and what differs.
"""

import itertools
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

warnings.filterwarnings("ignore")

BANDS = 3
SIZE = (150, 137)
NAMES = ("B02", "B03", "B08 & more")
CONFIG = """\
Data: {{dataset_type: Scenes, scenes: [train.npy], normalization: identity, scale: 0.004, hr_size: 32, num_workers: 0,
  val_fraction: 0.4, train_batch_size: 1, patches_per_epoch: 1}}
Model: {{in_bands: 3}}
Training: {{device: cpu, num_threads: 1, max_steps: 1, pretrain_g_only: true, g_pretrain_steps: 1, limit_val_batches: 0,
  Losses: {{ssim_win: 7}}}}
Generator: {{block_type: res, n_channels: 4, n_blocks: 1, large_kernel_size: 3, scaling_factor: {scale}}}
Discriminator: {{model_type: patchgan, n_blocks: 1}}
"""
TRANSFORMS = {
    "north": Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 4000000.0),
    "oblong": Affine(30.0, 0.0, 123456.75, 0.0, -15.0, -98765.5),
    "turned": Affine(8.0, 3.0, 500000.0, 2.0, -9.0, 4000000.0),
}


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return done.stderr


def cases():
    counter = itertools.count()
    for dtype, absent in itertools.product(["uint8", "int16", "uint16", "float32"], ["none", "nodata", "mask", "both"]):
        number = next(counter)
        transform = list(TRANSFORMS)[number % 3]
        yield {
            "name": f"{dtype}_{absent}_{transform}_{number}",
            "dtype": dtype,
            "absent": absent,
            "transform": TRANSFORMS[transform],
            "point": number % 2 == 1,
            "scale": (2, 4)[number // 2 % 2],
            "compress": ("deflate", "zstd", "none")[number % 3],
            "crs": CRS.from_epsg((32631, 4326, 3035)[number % 3]),
        }
    yield {"name": "points", "dtype": "uint16", "absent": "none", "gcps": True, "scale": 2, "compress": "deflate"}
    yield {"name": "plain", "dtype": "uint16", "absent": "none", "scale": 2, "compress": "deflate"}


def write_scene(path, case):
    rng = np.random.default_rng(len(case["name"]))
    y, x, b = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), np.arange(BANDS), indexing="ij")
    ground = 125 + 60 * np.sin(y / 7 + b) + 50 * np.cos(x / 5) + rng.normal(0, 4, (*SIZE, BANDS))
    array = np.maximum(ground, 1).astype(case["dtype"])
    valid = np.full(SIZE, 255, "uint8")
    valid[20:60, 30:47] = 0
    valid[::17, 90] = 0
    valid[100:, 120:] = 0
    nodata = {"float32": -9999.0, "int16": -32768}.get(case["dtype"], 0)
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": BANDS, "dtype": case["dtype"]}
    if case["absent"] in ("nodata", "both"):
        profile["nodata"] = nodata
        array[valid == 0] = nodata
    if case["absent"] == "both":
        # Valid pixels with the value that means no data elsewhere: the mask decides.
        array[5:9, 5:9] = nodata if case["dtype"] != "float32" else 0
    profile |= {key: case[key] for key in ("transform", "crs") if key in case}
    if case.get("gcps"):
        points = [(0, 0, 5.0, 45.0), (0, 136, 5.2, 45.0), (149, 0, 5.0, 44.8), (149.5, 136.5, 5.21, 44.79)]
        profile |= {"gcps": [GroundControlPoint(row, col, x, y) for row, col, x, y in points], "crs": CRS.from_epsg(4326)}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as out:
        out.write(np.moveaxis(array, -1, 0))
        out.descriptions = NAMES
        out.scales, out.offsets = (0.0001, 0.0002, 1.0), (0.0, -0.1, 0.0)
        out.update_tags(SENSOR="made up", AREA_OR_POINT="Point" if case.get("point") else "Area")
        if case["absent"] in ("mask", "both"):
            out.write_mask(valid)
    return valid if case["absent"] != "none" else np.full(SIZE, 255, "uint8")


def halved(pixels, valid, dtype):
    """Means of 2 × 2 valid pixels, and where there is one."""
    height, width = (n + n % 2 for n in valid.shape)
    padded = np.zeros((pixels.shape[0], height, width))
    weights = np.zeros((height, width))
    padded[:, : valid.shape[0], : valid.shape[1]] = np.where(valid, pixels, 0)
    weights[: valid.shape[0], : valid.shape[1]] = valid
    blocks = lambda a: a.reshape(*a.shape[:-2], height // 2, 2, width // 2, 2).sum(axis=(-1, -3))
    count = blocks(weights)
    means = blocks(padded) / np.maximum(count, 1)
    return (means if dtype == "float32" else np.rint(means)), count > 0


def check(case, scene, map_path, array_path, valid):
    """What is wrong with a map."""
    problems = []
    expect = lambda good, what: None if good else problems.append(f"{case['name']}: {what}")
    is_valid, errors, cog_warnings = cog_validate(map_path, strict=True, quiet=True)
    expect(is_valid, f"no valid COG: {errors} {cog_warnings}")
    s = case["scale"]
    with rasterio.open(scene) as a, rasterio.open(map_path) as b:
        expect(b.shape == (a.height * s, a.width * s) and b.count == a.count, f"size {b.shape}")
        expect(a.crs == b.crs, f"CRS {b.crs} of {a.crs}")
        wanted = a.transform * Affine.scale(1 / s)
        expect("transform" not in case or b.transform.almost_equals(wanted, 1e-6), f"transform {b.transform} for {wanted}")
        expect(a.dtypes == b.dtypes and a.nodata == b.nodata, f"{b.dtypes} with no-data {b.nodata}")
        expect(b.descriptions == NAMES and a.scales == b.scales and a.offsets == b.offsets, f"{b.descriptions}, {b.scales}")
        expect(b.tags().get("SENSOR") == "made up", f"tags {b.tags()}")
        expect(a.tags().get("AREA_OR_POINT") == b.tags().get("AREA_OR_POINT"), f"tags {b.tags()}")
        expect(b.profile["blockxsize"] == 512 and b.profile["tiled"], f"{b.profile}")
        expect(b.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG", f"structure {b.tags(ns='IMAGE_STRUCTURE')}")
        if case.get("gcps"):
            (before, crs), (after, map_crs) = a.gcps, b.gcps
            same = all(abs(p.row * s - q.row) < 1e-6 and abs(p.col * s - q.col) < 1e-6 and p.x == q.x for p, q in zip(before, after))
            expect(same and len(before) == len(after) and crs == map_crs, f"control points {after}")
        pixels, mask = b.read(), b.dataset_mask() != 0
        want = np.repeat(np.repeat(valid, s, 0), s, 1) != 0
        expect(np.array_equal(mask, want), f"{(~mask).sum()} masked pixels of {(~want).sum()}")
        flags = a.mask_flag_enums[0] == b.mask_flag_enums[0]
        expect(flags, f"{b.mask_flag_enums[0]} of {a.mask_flag_enums[0]}")
        array = np.moveaxis(np.load(array_path, allow_pickle=False), -1, 0)
        expect(array.dtype == pixels.dtype and np.array_equal(array, pixels, equal_nan=True), "other pixels than the array")
        expect(pixels[:, mask].std() > 1, "a map without ground")
        levels = b.overviews(1)
    expect(len(levels) > 0 or max(b.shape) <= 512, "no overviews")
    for level in range(len(levels)):
        pixels, mask = halved(pixels, mask, case["dtype"])
        with rasterio.open(map_path, overview_level=level) as overview:
            got, got_mask = overview.read(), overview.dataset_mask() != 0
        expect(np.array_equal(got_mask, mask), f"overview {level} has {(~got_mask).sum()} masked pixels of {(~mask).sum()}")
        away = np.abs(got.astype("float64") - pixels)[:, mask].max()
        # A mean that would be the value of no data is moved by one.
        limit = 1e-3 if case["dtype"] == "float32" else 1 if case["absent"] == "nodata" else 0
        expect(away <= limit, f"overview {level} is {away} away from the means")
        pixels = got.astype("float64")
    return problems


def check_product(predict, folder):
    """What differs between maps of a Sentinel-2 product and of its bands as GDAL reads them, less its offset."""
    problems = []
    product = Path(__file__).parents[1] / "fixtures" / "sentinel2" / "S2B_MSIL2A_20240101.SAFE"
    for metres, names in {10: ("B02", "B03", "B08"), 20: ("B05", "B8A", "B12")}.items():
        scene = folder / f"bands_{metres}.tif"
        bands = []
        for name in names:
            with rasterio.open(next(product.glob(f"GRANULE/*/IMG_DATA/R{metres}m/*_{name}_{metres}m.jp2"))) as band:
                values, profile = band.read(1).astype("int64"), band.profile
            special = (values == 0) | (values == 65535)
            bands.append(np.where(special, values, np.maximum(values - 1000, 1)).astype("uint16"))
        profile = {key: profile[key] for key in ("height", "width", "crs", "transform")}
        with rasterio.open(scene, "w", driver="GTiff", count=len(names), dtype="uint16", nodata=0, **profile) as out:
            out.write(np.stack(bands))
            out.descriptions = names
        run(*predict, product, "-o", f"product_{metres}.tif", "--bands", ",".join(names), cwd=folder)
        run(*predict, scene.name, "-o", f"bands_{metres}_map.tif", cwd=folder)
        with rasterio.open(folder / f"product_{metres}.tif") as a, rasterio.open(folder / f"bands_{metres}_map.tif") as b:
            told = [(m.crs, m.transform, m.dtypes, m.nodata, m.descriptions, m.shape) for m in (a, b)]
            if told[0] != told[1]:
                problems.append(f"product at {metres} m: {told[0]} instead of {told[1]}")
            elif not np.array_equal(a.read(), b.read()):
                problems.append(f"product at {metres} m: other pixels than those of its bands")
    return problems


def check_archive(predict, folder):
    """What differs between maps of a product's folder and of its archive. Its bands have megabytes, so that decoders do not
    hold them whole, and values that do not compress."""
    fixture = Path(__file__).parents[1] / "fixtures" / "sentinel2" / "S2B_MSIL2A_20240101.SAFE"
    product = folder / fixture.name
    shutil.copytree(fixture, product)
    rng = np.random.default_rng(1)
    for path in product.glob("GRANULE/*/IMG_DATA/R10m/*.jp2"):
        with rasterio.open(path) as band:
            profile = band.profile | {"height": 1200, "width": 700}
        lossless = {"QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": 256, "BLOCKYSIZE": 256}
        path.unlink()
        with rasterio.open(path, "w", **(profile | {"blockxsize": 256, "blockysize": 256, "tiled": True} | lossless)) as out:
            out.write(rng.integers(1, 9000, (1, 1200, 700)).astype("uint16"))
    with zipfile.ZipFile(folder / "product.zip", "w", zipfile.ZIP_STORED) as archive:
        for file in product.rglob("*"):
            archive.write(file, file.relative_to(folder))
    for source, target in ((product.name, "of_folder.npy"), ("product.zip", "of_archive.npy")):
        run(*predict, source, "-o", target, "--bands", "B02,B03,B08", cwd=folder)
    same = np.array_equal(np.load(folder / "of_folder.npy"), np.load(folder / "of_archive.npy"))
    return [] if same else ["an archive's map is not that of its product"]


def main():
    binaries = Path(sys.argv[1]).resolve()
    problems, count = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        np.save(folder / "train.npy", rng.integers(1, 250, (96, 64, BANDS)).astype("uint16"))
        for scale in (2, 4):
            (folder / f"{scale}.yaml").write_text(CONFIG.format(scale=scale))
            run(binaries / "srgan-train", "-c", f"{scale}.yaml", "--run-dir", f"run{scale}", cwd=folder)
        for case in cases():
            scene, map_path, array = (folder / f"{case['name']}{end}" for end in (".tif", "_map.tif", "_map.npy"))
            valid = write_scene(scene, case)
            # The untrained network's values are small: matched, they have the scene's.
            fixed = ["--device", "cpu", "--threads", "1", "--window", "64", "--match", "moments"]
            predict = [binaries / "srgan", "predict", "-m", f"run{case['scale']}", scene.name, *fixed]
            run(*predict, "-o", map_path.name, "--compress", case["compress"], cwd=folder)
            run(*predict, "-o", array.name, cwd=folder)
            problems += check(case, scene, map_path, array, valid)
            count += 1
        # Bands by name, in another order.
        run(*predict, "-o", "chosen.tif", "--bands", "B08 & more,b02,B03", cwd=folder)
        with rasterio.open(folder / "chosen.tif") as chosen:
            if chosen.descriptions != (NAMES[2], NAMES[0], NAMES[1]) or chosen.scales != (1.0, 0.0001, 0.0002):
                problems.append(f"bands by name: {chosen.descriptions}, {chosen.scales}")
        problems += check_product([*predict[:4], *fixed], folder)
        problems += check_archive([*predict[:4], "--device", "cpu"], folder)
    print("\n".join(problems) or f"{count + 3} maps are what GDAL and rio-cogeo expect")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
