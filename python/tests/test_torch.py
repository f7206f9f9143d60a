"""Tensors of PyTorch, opensr-test and opensr-utils, where they are installed."""

import numpy as np
import pytest

import srgan
from srgan import opensr

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(run):
    return opensr.load_from_config(run.folder / "config.yaml", run.checkpoint, map_location="cpu")


def test_tensors_come_back_as_tensors(generator):
    lr = torch.rand(2, 4, 12, 12)
    sr = generator(lr)
    assert isinstance(sr, torch.Tensor) and sr.shape == (2, 4, 48, 48) and sr.dtype == torch.float32
    assert np.array_equal(sr.numpy(), generator(lr.numpy()))
    assert torch.equal(generator(lr.requires_grad_()), sr)
    assert torch.allclose(generator(lr.detach().bfloat16()), sr, atol=0.02)
    assert torch.equal(generator(lr.detach().transpose(2, 3).contiguous().transpose(2, 3)), sr)
    with pytest.raises(TypeError, match="raw=True"):
        generator(torch.zeros(1, 4, 8, 8, dtype=torch.int32))


def test_the_module(model, generator):
    lr = torch.rand(1, 4, 12, 12)
    assert isinstance(model, torch.nn.Module) and not model.training and model.factor == 4
    assert torch.equal(model.eval().to("cpu")(lr), generator(lr))


def test_opensr_srgan_loads_what_is_exported_and_the_other_way_round(run, generator, tmp_path):
    from srgan import _srgan

    out = tmp_path / "gan.ckpt"
    assert _srgan.run_program("srgan", ["srgan", "export", str(run.folder), "-o", str(out)], None) == 0
    model = opensr.load_from_config(tmp_path / "gan.yaml", out, map_location=torch.device("cpu"))
    lr = torch.rand(1, 4, 12, 12)
    assert torch.equal(model(lr), generator(lr))


def test_opensr_test_measures_the_model(model):
    opensr_test = pytest.importorskip("opensr_test")
    hr = torch.from_numpy(np.load("data/sentinel2_10m_b2_b3_b4_b8.npy")[:128, :128].astype(np.float32) / 10000)
    hr = hr.permute(2, 0, 1).contiguous()
    lr = torch.nn.functional.interpolate(hr[None], scale_factor=0.25, antialias=True, mode="bilinear")[0]
    measured = opensr_test.Metrics().compute(lr=lr, sr=model(lr[None])[0], hr=hr)
    assert {"reflectance", "synthesis", "im_metric"} <= measured.keys()
    assert all(np.isfinite(float(value)) for key, value in measured.items() if key != "spatial"), measured


def test_opensr_utils_maps_a_file(model, tmp_path):
    opensr_utils = pytest.importorskip("opensr_utils")
    rasterio = pytest.importorskip("rasterio")
    scene = np.load("data/sentinel2_10m_b2_b3_b4_b8.npy").transpose(2, 0, 1)[:, :160, :160].astype(np.uint16)
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4500000)
    profile = {"driver": "GTiff", "count": 4, "height": 160, "width": 160, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "scene.tif", "w", transform=transform, **profile) as file:
        file.write(scene)
    job = opensr_utils.large_file_processing(
        root=str(tmp_path / "scene.tif"), model=model, window_size=(64, 64), overlap=16, device="cpu", batch_size=2
    )
    job.run()
    (out,) = [path for path in tmp_path.rglob("*.tif") if path.name != "scene.tif"]
    with rasterio.open(out) as file:
        assert (file.count, file.height, file.width) == (4, 640, 640)
        theirs = file.read().astype(np.float64)
    ours = model.generator(scene[None].astype(np.float32), raw=True)[0]
    # Away from their seams the pixels are ours, to a count.
    assert np.median(np.abs(theirs - ours)) <= 1, np.abs(theirs - ours).max()


def test_presets_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="RGB-NIR"):
        opensr.load_inference_model("thermal")
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        opensr.load_inference_model("rgb_nir", cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no.yaml"):
        opensr.load_from_config("no.yaml", "no.ckpt")
    with pytest.raises(ValueError, match="untrained"):
        opensr.load_from_config("configs/demo.yaml")
