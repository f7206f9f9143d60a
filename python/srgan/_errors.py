"""Exceptions: what is wrong, where, and what to do, as the programs say it."""


class Error(Exception):
    """Anything that goes wrong in srgan; raised as such for faults of the package itself."""


class ConfigError(Error, ValueError):
    """A configuration or an override is wrong; the message names file, line and key."""


class DataError(Error):
    """A scene or another input file cannot be used; the message names it."""


class CheckpointError(Error):
    """A checkpoint cannot be read, is none, or does not fit its configuration."""


class UsageError(Error, ValueError):
    """An argument asks for what cannot be."""


class FileError(Error, OSError):
    """The operating system could not read or write a file."""


class OutOfMemoryError(Error, MemoryError):
    """The machine or the GPU has not as much memory as is needed."""


class DeviceError(Error):
    """A GPU, its driver or a library of it cannot be used, or failed."""


class DivergedError(Error, ArithmeticError):
    """Training no longer gives finite numbers; the last good state is saved."""
