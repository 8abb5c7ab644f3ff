"""Helpers of The NoProp Book: layer-local training by denoising labels.

The mathematics stands in leaf modules, each one file that imports PyTorch and the standard library only: copy the one you
need. ``noprop`` composes them into models, ``training`` trains these, ``runs`` goes from data to numbers, and
``python -m noprop_helpers`` does so from a shell. ``lab`` holds the book's own experiments.
"""

import contextlib
from typing import Iterator

__version__ = "0.1.0"


class NoPropError(ValueError):
    """Something asked for does not exist or does not fit; the message is one line that says what to do.

    Raised above the leaf modules, whose own checks raise plain ValueError. The command line shows these without a traceback.
    """


@contextlib.contextmanager
def needs(package: str, what: str) -> Iterator[None]:
    """Within it, an import of a package that is not installed is one line that says what needs it and how to install it.

    >>> with needs("no_such_package", "this example"):
    ...     import no_such_package
    Traceback (most recent call last):
    noprop_helpers.NoPropError: this example needs no_such_package: pip install no_such_package
    """
    try:
        yield
    except ModuleNotFoundError:
        raise NoPropError(f"{what} needs {package}: pip install {package}") from None
