"""A small generator, trained once on the demo's chip."""

import os

import pytest

import srgan

SMALL = {
    "Training.device": "cpu",
    "Training.num_threads": 2,
    "Training.max_steps": 8,
    "Training.g_pretrain_steps": 5,
    "Training.adv_loss_ramp_steps": 0,
    "Training.val_check_interval": 4,
    "Generator.n_channels": 8,
    "Generator.n_blocks": 1,
    "Data.patches_per_epoch": 64,
    "Data.hr_size": 32,
}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder with the demo's configuration and chip, which is the current one."""
    from srgan import _srgan

    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert _srgan.run_program("srgan", ["srgan", "init", "--demo", str(folder)], None) == 0
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="session")
def small():
    return dict(SMALL)


@pytest.fixture(scope="session")
def run(demo, small):
    return srgan.train("configs/demo.yaml", overrides=small, run_dir="run")


@pytest.fixture(scope="session")
def generator(run):
    return srgan.Generator.load(run.folder, "cpu", threads=2)


@pytest.fixture(scope="session")
def scene(demo):
    import numpy

    return numpy.load("data/sentinel2_10m_b2_b3_b4_b8.npy")
