"""Where this package's programs and messages are."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import TextIO


def program() -> str | None:
    """The installed program `srgan`, which is started to check a GPU before it is trusted."""
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    if sys.flags.no_user_site == 0:
        folders.append(sysconfig.get_path("scripts", f"{os.name}_user"))
    paths = (os.path.join(folder, "srgan") for folder in folders if folder)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def replaced_stderr() -> TextIO | None:
    """Standard error where someone has replaced it, as a notebook does; None where it is the process's own."""
    return None if sys.stderr is sys.__stderr__ else sys.stderr
