"""`srgan.Generator`."""

import array
import multiprocessing
import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest

import srgan


def images(count, side=12, seed=0):
    return np.random.default_rng(seed).uniform(0.05, 0.6, (count, 4, side, side)).astype(np.float32)


def test_what_is_known_of_it(generator):
    assert (generator.bands, generator.scale, generator.step) == (4, 4, 8)
    assert generator.band_names == ["0", "1", "2", "3"]
    assert generator.normalisation == "normalise_10k"
    assert generator.config["Generator"]["n_channels"] == 8
    assert "averaged weights of step 8" in repr(generator)


def test_images_do_not_depend_on_each_other(generator):
    lr = images(3)
    sr = generator(lr)
    assert sr.shape == (3, 4, 48, 48) and sr.dtype == np.float32
    assert np.array_equal(sr[1], generator(lr[1]))
    assert generator(lr[1]).shape == (4, 48, 48)
    assert generator(lr[:0]).shape == (0, 4, 48, 48)
    sr[0, 0, 0, 0] = 1  # it is the caller's


def test_any_extent(generator):
    for height, width in [(1, 1), (3, 17), (30, 2)]:
        lr = np.full((1, 4, height, width), 0.2, np.float32)
        assert generator(lr).shape == (1, 4, 4 * height, 4 * width)


def test_many_extents_are_not_kept(generator):
    first = generator(images(1, 8))
    for side in range(1, 40):
        generator(images(1, side))
    assert np.array_equal(generator(images(1, 8)), first)


def test_arrays_of_all_kinds_are_taken(generator):
    lr = images(2)
    want = generator(lr)
    assert np.array_equal(generator(memoryview(lr)), want)
    assert np.array_equal(generator(lr.tolist()), want)
    assert np.array_equal(generator(np.asfortranarray(lr)), want)
    assert np.array_equal(generator(lr[:, ::-1].copy()[:, ::-1]), want)
    flat = array.array("f", lr.ravel())
    assert np.array_equal(generator(memoryview(flat).cast("B").cast("f", lr.shape)), want)

    class Exchanged:
        def __dlpack__(self, **options):
            return lr.__dlpack__(**options)

        def __dlpack_device__(self):
            return lr.__dlpack_device__()

    assert np.array_equal(generator(Exchanged()), want)
    assert np.allclose(generator(lr.astype(np.float64)), want, atol=1e-6)


def test_raw_pixels_are_those_of_the_files(generator):
    lr = images(1)
    want = 10000 * np.clip(generator(lr), 0, 1)
    assert np.allclose(generator(10000 * lr, raw=True), want, atol=0.05)
    counts = np.round(10000 * lr).astype(np.uint16)
    assert np.allclose(generator(counts, raw=True), 10000 * np.clip(generator(counts / 10000), 0, 1), atol=0.05)
    with pytest.raises(TypeError, match="raw=True"):
        generator(counts)


def test_a_map_is_what_the_network_gives(generator, scene, tmp_path):
    chip = scene[:60, :70].astype(np.float32)
    np.save(tmp_path / "scene.npy", chip)
    path = generator.predict(tmp_path / "scene.npy", tmp_path / "map.npy", window=4096)
    assert path == str(tmp_path / "map.npy")
    sr = generator(chip.transpose(2, 0, 1), raw=True)
    assert np.array_equal(np.load(path).transpose(2, 0, 1), sr)


def test_maps_are_not_replaced_unless_asked_for(generator, scene, tmp_path):
    np.save(tmp_path / "scene.npy", scene[:40, :40])
    once = generator.predict(tmp_path / "scene.npy", tmp_path / "maps", bands=[0, 1, 2, 3], preview=True)
    assert pathlib.Path(once).name == "scene.npy" and (tmp_path / "maps" / "scene.png").is_file()
    with pytest.raises(srgan.DataError, match="this file exists"):
        generator.predict(tmp_path / "scene.npy", tmp_path / "maps")
    assert generator.predict(tmp_path / "scene.npy", tmp_path / "maps", bands="0,1,2,3", resume=True) == once
    assert generator.predict(tmp_path / "scene.npy", tmp_path / "maps", overwrite=True) == once
    with pytest.raises(ValueError, match="one of cosine, linear, none"):
        generator.predict(tmp_path / "scene.npy", tmp_path / "maps", blend="cubic")
    with pytest.raises(ValueError, match="3/8"):
        generator.predict(tmp_path / "scene.npy", tmp_path / "maps", part="9/8")
    with pytest.raises(ValueError, match="exclude"):
        generator.predict(tmp_path / "scene.npy", tmp_path / "maps", overwrite=True, resume=True)
    with pytest.raises(srgan.Error, match="nowhere.tif"):
        generator.predict("nowhere.tif", tmp_path / "m.tif")


def test_wrong_images_are_refused(generator):
    with pytest.raises(ValueError, match="3 bands"):
        generator(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        generator(np.zeros((8, 8), np.float32))
    with pytest.raises(ValueError):
        generator(np.zeros((1, 4, 0, 8), np.float32))
    for wrong in (np.zeros((1, 4, 8, 8), complex), np.zeros((1, 4, 8, 8), bool), [["a"]], None):
        with pytest.raises((TypeError, ValueError)):
            generator(wrong)
    lr = images(2)
    lr[1, 2, 3, 4] = np.nan
    with pytest.raises(srgan.UsageError, match="image 1, band 2, row 3, column 4 is NaN"):
        generator(lr)


def test_wrong_checkpoints_are_told(demo):
    with pytest.raises(srgan.Error, match="nowhere.safetensors"):
        srgan.Generator.load("nowhere.safetensors")
    pathlib.Path("no.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(srgan.CheckpointError, match="no.safetensors"):
        srgan.Generator.load("no.safetensors")
    with pytest.raises(srgan.ConfigError, match="Training.device"):
        srgan.Generator.load("run", device="tpu")


def test_threads_share_it(generator):
    lr = images(4)
    want, got = generator(lr), [None] * 4

    def use(i):
        got[i] = generator(lr)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(np.array_equal(sr, want) for sr in got)


def test_the_result_does_not_depend_on_the_number_of_threads(run, generator):
    lr = images(2)
    assert np.array_equal(srgan.Generator.load(run.checkpoint, "cpu", threads=1)(lr), generator(lr))


def _use_after_fork(generator, answers):
    try:
        generator(np.zeros((1, 4, 4, 4), np.float32))
        answers.put("it answered")
    except srgan.UsageError as error:
        answers.put(str(error))


def test_a_forked_process_is_told(generator):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_use_after_fork, args=(generator, answers))
    child.start()
    assert "forked" in answers.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_ctrl_c_stops_a_map_that_can_be_resumed(generator, scene, tmp_path):
    np.save(tmp_path / "scene.npy", scene)
    arguments = (tmp_path / "scene.npy", tmp_path / "map.npy")
    working = tmp_path / ".map.npy.work"

    def interrupt():
        while not working.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        generator.predict(*arguments, window=24)
    thread.join()
    assert working.exists() and not (tmp_path / "map.npy").exists()
    generator.predict(*arguments, window=24, resume=True)
    assert not working.exists()
    assert np.load(tmp_path / "map.npy", mmap_mode="r").shape == (4 * scene.shape[0], 4 * scene.shape[1], 4)
