"""`srgan.train` and `srgan.config`."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import srgan


def test_a_run_ends_with_its_files(run):
    assert (run.steps, run.stopped) == (8, False)
    assert isinstance(run.folder, pathlib.Path) and run.checkpoint.is_file()
    assert (run.folder / "metrics.csv").is_file() and (run.folder / "report.html").is_file()


def test_each_step_is_told_in_its_order(demo, small):
    seen = []
    srgan.train("configs/demo.yaml", overrides=small, run_dir="told", on_step=seen.append)
    assert [step.index for step in seen] == list(range(8))
    assert [step.phase for step in seen] == ["pretrain"] * 5 + ["adversarial"] * 3
    assert all(step.committed for step in seen)
    losses = [step.metrics["generator/content_loss"] for step in seen]
    assert all(0 < loss < 1 for loss in losses)
    assert seen[0].metrics["discriminator/adversarial_loss"] == 0 < seen[-1].metrics["discriminator/adversarial_loss"]


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(run, small):
    stopped = srgan.train("configs/demo.yaml", overrides=small, run_dir="stopped", on_step=lambda step: step.index < 2)
    assert stopped.stopped and 3 <= stopped.steps <= 4
    finished = srgan.train("configs/demo.yaml", overrides=small, resume=stopped.folder)
    assert (finished.steps, finished.stopped, finished.folder) == (8, False, stopped.folder)
    rows = [(folder / "metrics.csv").read_text() for folder in (run.folder, finished.folder)]
    assert rows[0] == rows[1]


def test_an_exception_of_the_callback_is_raised_with_the_state_saved(demo, small):
    def fails(step):
        raise LookupError(f"at {step.index}")

    with pytest.raises(LookupError, match="at 0"):
        srgan.train("configs/demo.yaml", overrides=small, run_dir="raised", on_step=fails)
    assert pathlib.Path("raised/last.safetensors").is_file()


def test_ctrl_c_saves_the_state_and_leaves_handlers_alone(demo, small):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(KeyboardInterrupt):
        srgan.train(
            "configs/demo.yaml",
            overrides=small | {"Training.max_steps": 100000},
            run_dir="interrupted",
            on_step=lambda step: os.kill(os.getpid(), signal.SIGINT) if step.index == 1 else None,
        )
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert pathlib.Path("interrupted/last.safetensors").is_file()
    run = srgan.train("configs/demo.yaml", overrides=small, resume="interrupted")
    assert run.steps == 8


def test_ctrl_c_without_a_callback(demo, small):
    """As a person presses it: the signal comes from outside while the engine works."""
    program = textwrap.dedent(
        f"""
        import srgan
        try:
            srgan.train("configs/demo.yaml", overrides={small | {"Training.max_steps": 10**6}!r}, run_dir="outside")
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "training patches" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "interrupted" in out, err
    assert pathlib.Path("outside/last.safetensors").is_file()


def test_other_threads_go_on_while_training(demo, small):
    ticks, done = [], threading.Event()

    def count():
        while not done.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        srgan.train("configs/demo.yaml", overrides=small, run_dir="threads")
    finally:
        done.set()
        thread.join()
    assert len(ticks) > 20


def test_messages_go_to_a_replaced_stderr(demo, small, monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    srgan.train("configs/demo.yaml", overrides=small, run_dir="messages")
    assert "training patches" in text.getvalue() and "finished: 8 steps" in text.getvalue()


def test_dictionaries_are_configurations(demo, small):
    cfg = srgan.config("configs/demo.yaml", small)
    assert (cfg["Training"]["max_steps"], cfg["Generator"]["n_channels"]) == (8, 8)
    assert srgan.config(cfg) == cfg
    run = srgan.train(cfg | {"Logging": {"output_dir": pathlib.Path("from_dictionary")}}, overrides=["Training.max_steps=2"])
    assert (run.folder, run.steps) == (pathlib.Path("from_dictionary"), 2)


def test_wrong_configurations_are_told(demo):
    with pytest.raises(srgan.ConfigError, match=r"configs/demo.yaml.*\n?.*|Training.sed") as error:
        srgan.config("configs/demo.yaml", {"Training.sed": 1})
    assert "Training.sed" in str(error.value) and "Training.seed" in str(error.value)
    assert isinstance(error.value, srgan.Error) and isinstance(error.value, ValueError)
    with pytest.raises(srgan.ConfigError, match="nowhere.yaml"):
        srgan.train("nowhere.yaml")
    with pytest.raises(srgan.ConfigError, match="n_blocks"):
        srgan.config({"Generator": {"n_blocks": "many"}})
    with pytest.raises(TypeError, match="a configuration is"):
        srgan.config(3)
    with pytest.raises(TypeError, match="no place in a configuration"):
        srgan.config({"Training": {"seed": object()}})
    with pytest.raises(TypeError, match="overrides"):
        srgan.config({}, "Training.seed=1")


def test_missing_data_are_told(demo, small):
    with pytest.raises(srgan.DataError, match="nowhere.npy"):
        srgan.train("configs/demo.yaml", overrides=small | {"Data.scenes": ["nowhere.npy"]}, run_dir="no_data")


def test_a_diverged_run_is_told(demo, small):
    wild = small | {"Optimizers.optim_g_lr": 1e30, "Training.max_steps": 100, "Training.g_pretrain_steps": 100}
    with pytest.raises(srgan.DivergedError, match="diverged"):
        srgan.train("configs/demo.yaml", overrides=wild, run_dir="wild")
