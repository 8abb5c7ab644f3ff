"""What all commands share: faults of arguments, files and machine are one line and exit code 2; a bug shows its traceback."""

import argparse
import contextlib
import os
import sys
import warnings
from typing import Callable

from .. import NoPropError
from ..checkpoints import CheckpointError


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, instead of the usage followed by it, and that wants options in full: --seed is not
    short for --seeds. ``prog`` is "python -m" and a module."""

    allow_abbrev = property(lambda self: False, lambda self, value: None)  # whatever argparse hands to those of its commands

    def error(self, message: str):
        """End the command with exit code 2 and this line."""
        self.exit(2, f"{self.prog.split()[2].split('.')[-1]}: {message} (--help lists what there is)\n")


def in_one_line(name: str, command: Callable[[], int | None]) -> int:
    """Run a command: -> its exit code, 0 for None; 2, after one line on standard error, for a fault of arguments, data, files or
    memory, 130 for an interruption.

    >>> in_one_line("example", lambda: None)
    0
    """
    if sys.stderr is None:  # closed, as a scheduler may leave it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal has no letters for is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def tell(text: object) -> None:
        with contextlib.suppress(OSError):
            print(f"{name}: {' '.join(str(text).split())}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: tell(message)
        try:
            return command() or 0
        except (NoPropError, CheckpointError) as error:
            tell(error)
        except OSError as error:
            tell(f"{error.filename or 'this machine'}: {error.strerror or error}")
        except (MemoryError, RuntimeError) as error:
            if not _memory_is_full(error):
                raise
            tell("not enough memory: fewer layers, smaller ones, smaller images or batches need less")
        except KeyboardInterrupt:
            tell("interrupted")
            return 130
    return 2


def _memory_is_full(error: Exception) -> bool:
    """Whether this is Python's, NumPy's, a GPU's or PyTorch's way to say so; the last has no class of its own."""
    kinds = MemoryError, *(type(error).__mro__ if type(error).__name__ == "OutOfMemoryError" else ())
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)
