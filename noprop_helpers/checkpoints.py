"""Files of weights: written all or nothing, read without executing anything that they contain.

``torch.load`` on an untrusted file may run code. These functions store tensors, numbers and text only, and read with
``weights_only=True``, which refuses all else.
"""

import os
import tempfile
from pathlib import Path

import torch
from torch import nn

FORMAT = "noprop_helpers 1"


def save(path: str | Path, content: dict) -> None:
    """Write a dictionary of tensors, numbers, text and nested lists or dictionaries of them.

    A reader sees the old file or the new one, never half of one. Raises ValueError where it cannot be written.
    """
    path = Path(path)
    handle, temporary = None, None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
        os.chmod(temporary, 0o644)  # mkstemp gives 600
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise ValueError(f"cannot write {path}: {error.strerror}") from None
        raise


def load(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read what ``save`` wrote. Raises ValueError where there is no such file, or it is something else."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds: truncated zip, foreign pickle, not a file of torch's at all
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again or name another"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by noprop_helpers: expected a checkpoint of format {FORMAT!r}")
    return content


def load_state(module: nn.Module, state: dict, source: str | Path) -> None:
    """Copy saved weights into a module built alike. Raises ValueError, with the first misfit, where it is not alike."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"{source} does not fit this model: it has no weights for {name}")
        if name not in own:
            raise ValueError(f"{source} does not fit this model, which has no {name}")
        if own[name].shape != state[name].shape:
            raise ValueError(
                f"{source} does not fit this model: {name} has shape {list(state[name].shape)} there, "
                f"expected {list(own[name].shape)}"
            )
    module.load_state_dict(state)
