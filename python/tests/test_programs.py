"""The installed programs, the package's files, and what its texts promise."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import srgan

ROOT = pathlib.Path(__file__).parents[2]


def program(name, *arguments):
    path = pathlib.Path(sys.executable).with_name(name)
    return subprocess.run([path, *arguments], capture_output=True, text=True)


def test_the_programs_are_there(run):
    assert program("srgan", "--version").stdout.strip() == f"srgan {srgan.__version__}"
    assert program("srgan-train", "--version").stdout.strip() == f"srgan-train {srgan.__version__}"
    inspected = program("srgan", "inspect", str(run.folder), "--json")
    assert json.loads(inspected.stdout)["step"] == 8, inspected.stderr
    assert subprocess.run([sys.executable, "-m", "srgan", "--version"], capture_output=True).returncode == 0


def test_their_errors_and_exit_codes(demo):
    refused = program("srgan-train", "-c", "configs/demo.yaml", "Training.sed=1")
    assert refused.returncode == 2 and "error: Training.sed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert program("srgan", "no-such-command").returncode == 2
    assert program("srgan", "--help").returncode == 0


def test_the_program_stops_on_ctrl_c_with_its_state_saved(demo, small):
    import signal

    path = pathlib.Path(sys.executable).with_name("srgan-train")
    overrides = [f"{key}={value}" for key, value in small.items()] + ["Training.max_steps=1000000"]
    command = [path, "-c", "configs/demo.yaml", "--run-dir", "by_program", *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "training patches" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert pathlib.Path("by_program/last.safetensors").is_file()


def test_the_package_is_typed():
    folder = pathlib.Path(srgan.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "_srgan.pyi").is_file()


def test_everything_public_is_described():
    for name in srgan.__all__:
        item = getattr(srgan, name)
        if name != "__version__":
            assert item.__doc__, name
    for name in srgan.metrics.__all__:
        assert getattr(srgan.metrics, name).__doc__, name
    for name, item in vars(srgan.Generator).items():
        assert name.startswith("_") or (item.__func__ if isinstance(item, classmethod) else item).__doc__, name


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_lines_of_the_texts_run(page, run, scene, monkeypatch, tmp_path):
    """Each ```python block runs in a folder with a trained run `logs/my_run`, a scene and a configuration."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    if page == "README.md":
        blocks = [block for block in blocks if "import srgan" in block]
    assert blocks, page
    shutil.copytree(run.folder, tmp_path / "logs" / "my_run")
    shutil.copytree(run.folder.resolve().parent / "data", tmp_path / "data")
    small = srgan.config("configs/demo.yaml", {"Training.max_steps": 2, "Generator.n_channels": 8, "Data.hr_size": 32})
    (tmp_path / "cfg.yaml").write_text(json.dumps(small))
    np.save(tmp_path / "scene.npy", scene[:40, :40])
    monkeypatch.chdir(tmp_path)
    names = {
        "lr": np.random.default_rng(1).uniform(0, 0.5, (2, 4, 16, 16)).astype(np.float32),
        "sr": np.full((2, 4, 64, 64), 0.3, np.float32),
        "hr": np.full((2, 4, 64, 64), 0.4, np.float32),
    }
    for block in blocks:
        if "torch" in block and importlib.util.find_spec("torch") is None:
            continue
        exec(compile(block, page, "exec"), names)
