"""Training."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import _srgan
from ._config import ConfigLike, Overrides, override_texts, source
from ._program import program, replaced_stderr


@dataclass(frozen=True)
class Step:
    """What a step did."""

    index: int
    """Its number, from 0."""
    phase: str
    """`pretrain` or `adversarial`."""
    committed: bool
    """False if a loss or a gradient was not finite: nothing has changed then."""
    metrics: dict[str, float]
    """What it measured, by the names of `metrics.csv`: `generator/content_loss`, …"""


@dataclass(frozen=True)
class Run:
    """A run that has come to its end, or was stopped with its state saved."""

    folder: Path
    """Its folder, with checkpoints, `metrics.csv`, `report.html`."""
    steps: int
    """Steps that were done, those before it was continued included."""
    stopped: bool
    """Whether `on_step` stopped it: `train(…, resume=run.folder)` goes on."""

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "last.safetensors"


OnStep = Callable[[Step], object]


def train(
    config: ConfigLike,
    *,
    overrides: Overrides = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    accept_new_data: bool = False,
    on_step: OnStep | None = None,
    device: str | None = None,
) -> Run:
    """Trains to the end, or until `on_step` or Ctrl-C stops the run.

    Args:
        config: Path of a YAML file (that of opensr-srgan too), or the same as a dictionary.
        overrides: Values that take precedence, `{"Training.seed": 1}` or `["Training.seed=1"]`.
        run_dir: The run's folder instead of `logs/PROJECT/TIMESTAMP`.
        resume: Continue a run: its folder or a checkpoint, or True (`"auto"`) for the newest of the project, where there
            is one. A continued run computes the same bits as one that was never stopped.
        accept_new_data: With `resume`: go on although the imagery is not what the run was trained on.
        on_step: Called after each step. Returning False stops the run with its state saved, after the step that may be
            under way already; an exception does the same and is raised.
        device: `auto`, `cpu` or `cuda`; the same as `Training.device`.

    Returns:
        The run.

    Raises:
        ConfigError, DataError, CheckpointError: What is wrong, where, and what to do.
        DivergedError: Training gave no finite numbers any more; the last good state is saved.
        KeyboardInterrupt: After Ctrl-C, with the state saved: `resume` goes on.
    """
    texts = override_texts(overrides) + ([] if device is None else [f"Training.device={device}"])

    def stops(index: int, phase: str, committed: bool, metrics: dict[str, float]) -> bool:
        return on_step is not None and on_step(Step(index, phase, committed, metrics)) is False

    place = {
        "run_dir": None if run_dir is None else os.fspath(run_dir),
        "resume": _resume(resume),
        "accept_new_data": accept_new_data,
        "program": program(),
    }
    hook = None if on_step is None else stops
    folder, steps, stopped = _srgan.train(*source(config), texts, place, hook, replaced_stderr())
    return Run(Path(folder), steps, stopped)


def _resume(resume: str | os.PathLike[str] | bool | None) -> str | None:
    if resume is None or resume is False:
        return None
    return "auto" if resume is True else os.fspath(resume)
