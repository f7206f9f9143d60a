"""The programs `srgan` and `srgan-train`; `python -m srgan` is the first."""

import signal
import sys

from . import _srgan
from ._program import program


def _run(name: str) -> int:
    # Ctrl-C is the program's: it saves a run's state.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _srgan.run_program(name, [name, *sys.argv[1:]], program())


def main() -> int:
    """`srgan`."""
    return _run("srgan")


def train() -> int:
    """`srgan-train`."""
    return _run("srgan-train")


if __name__ == "__main__":
    sys.exit(main())
