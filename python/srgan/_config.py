"""Configurations: files, dictionaries, overrides."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Union

from . import _srgan

ConfigLike = Union[str, "os.PathLike[str]", Mapping[str, Any]]
Overrides = Union[Mapping[str, Any], Sequence[str], None]


def plain(value: Any) -> Any:
    """`value` of plain dictionaries and lists, as JSON can hold it; OmegaConf's containers are taken for such."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item())  # a number of NumPy
    raise TypeError(f"{value!r} has no place in a configuration: expected numbers, text, lists and dictionaries")


def as_yaml(value: Any) -> str:
    """A value as YAML reads it in one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def source(config: ConfigLike) -> tuple[str | None, str | None]:
    """The path of a configuration, or its text."""
    if isinstance(config, (str, os.PathLike)):
        return os.fspath(config), None
    if isinstance(config, Mapping):
        return None, json.dumps(plain(config), ensure_ascii=False, indent=1)
    raise TypeError(f"a configuration is the path of a YAML file or a dictionary, not {type(config).__name__}")


def override_texts(overrides: Overrides) -> list[str]:
    """Overrides as `Section.key=value`."""
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        return [f"{key}={as_yaml(value)}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        raise TypeError('overrides are a dictionary {"Section.key": value} or a list of "Section.key=value"')
    return [str(text) for text in overrides]


def config(config: ConfigLike, overrides: Overrides = None) -> dict[str, Any]:
    """The complete configuration as a run would use it: every section and key, with defaults and overrides applied.

    Args:
        config: Path of a YAML file (that of opensr-srgan too), or the same as a dictionary.
        overrides: Values that take precedence, `{"Training.seed": 1}` or `["Training.seed=1"]`.

    Returns:
        Nested dictionaries; keys without a value are left out.

    Raises:
        ConfigError: Something is wrong: file, line, key, and what to do.
    """
    text, notes = _srgan.load_config(*source(config), override_texts(overrides))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return json.loads(text)
