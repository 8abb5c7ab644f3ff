"""Files of weights and results: written all or nothing, read without executing anything that they contain.

``torch.load`` on an untrusted file may run code. These functions store tensors, numbers and text only, and read with
``weights_only=True``, which refuses all else.
"""

import hashlib
import io
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

FORMAT = "noprop_helpers 2"


class CheckpointError(ValueError):
    """A file cannot be written, cannot be read, or does not fit; the message is one line for the user."""


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file: a reader sees the old content or the new one, never half of one.

    A link stays a link, and what it points to is replaced; a device or a pipe is written to. Raises CheckpointError where
    it cannot be written.

    >>> write_bytes("numbers.bin", b"123")
    >>> Path("numbers.bin").read_bytes()
    b'123'
    """
    if not str(path):
        raise CheckpointError("expected the name of a file to write, got an empty one")
    temporary = None
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # by the name given: a pipe behind /dev/stdout has no other
            with open(path, "wb") as file:
                file.write(content)
            return
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644  # mkstemp gives 600
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
        raise


def check_writable(path: str | Path) -> None:
    """Raise CheckpointError now, before hours of work, if a file could not be written at ``path``.

    >>> try:
    ...     check_writable("no-such-folder/model.pt")
    ... except CheckpointError as error:
    ...     print(error)
    cannot write no-such-folder/model.pt: the folder ... does not exist; create it first
    """
    if not str(path):
        raise CheckpointError("expected the name of a file to write, got an empty one")
    if os.path.isdir(path):
        raise CheckpointError(f"cannot write {path}: it is a folder; name a file")
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe
        return
    target = Path(os.path.realpath(path))
    if not os.path.isdir(target.parent):
        raise CheckpointError(f"cannot write {path}: the folder {target.parent} does not exist; create it first")
    try:
        # as ``write_bytes`` will: its name is longer than the file's own
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):
            pass
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def save(path: str | Path, content: dict) -> None:
    """Write a dictionary of tensors, numbers, text and nested lists or dictionaries of them, all or nothing.

    Raises CheckpointError where it cannot be written.

    >>> save("model.pt", {"state": {"weight": torch.ones(2)}, "epochs": 3})
    >>> load("model.pt")["epochs"]
    3
    """
    buffer = io.BytesIO()  # torch tells a full disk in words of its own; the file is written by us
    torch.save({"format": FORMAT, **content}, buffer)
    write_bytes(path, buffer.getbuffer())


def load(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read what ``save`` wrote. Raises CheckpointError where there is no such file, or it is something else.

    >>> save("model.pt", {"state": {"weight": torch.ones(2)}, "epochs": 3})
    >>> load("model.pt")["state"]
    {'weight': tensor([1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds: truncated zip, foreign pickle, not a file of torch's at all
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again or name another"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of noprop_helpers: expected a checkpoint of format {FORMAT!r}"
        )
    return content


def load_state(module: nn.Module, state: dict, source: str | Path) -> None:
    """Copy saved weights into a module built alike. Raises CheckpointError, with the first misfit, where it is not alike.

    >>> saved, model = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> load_state(model, saved.state_dict(), "saved.pt")
    >>> torch.equal(model.weight, saved.weight)
    True
    """
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f"{source} does not fit this model: it has no weights for {name}")
        if name not in own:
            raise CheckpointError(f"{source} does not fit this model, which has no {name}")
        if not isinstance(state[name], Tensor) or own[name].dtype != state[name].dtype:
            found = state[name].dtype if isinstance(state[name], Tensor) else type(state[name]).__name__
            raise CheckpointError(f"{source} does not fit this model: {name} is {found} there, expected {own[name].dtype}")
        if own[name].shape != state[name].shape:
            raise CheckpointError(
                f"{source} does not fit this model: {name} has shape {list(state[name].shape)} there, "
                f"expected {list(own[name].shape)}"
            )
        if not state[name].isfinite().all():
            raise CheckpointError(f"{source} is of no use: its {name} is not finite, NaN or infinite; train again")
    module.load_state_dict(state)


def check_same(saved: dict, expected: dict, source: str | Path) -> None:
    """Raise CheckpointError, with the first difference, unless ``saved`` says of itself all that is expected.

    >>> try:
    ...     check_same({"num_steps": 5}, {"num_steps": 10}, "model.pt")
    ... except CheckpointError as error:
    ...     print(error)
    model.pt has num_steps 5, expected 10
    """
    for name, value in expected.items():
        if name not in saved:
            raise CheckpointError(f"{source} does not say its {name}; expected {_short(value)}")
        if isinstance(value, dict) and isinstance(saved[name], dict):
            check_same(saved[name], value, source)
        elif saved[name] != value:
            raise CheckpointError(f"{source} has {name} {_short(saved[name])}, expected {_short(value)}")


def checksum(*tensors: Tensor) -> str:
    """``sha256:<hex>`` of the shapes, types and values of some tensors, in their order.

    >>> checksum(torch.zeros(3)) == checksum(torch.zeros(3)) != checksum(torch.zeros(3, 1))
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in tensor.split(4096):  # a whole data set at once would double the memory in use
            digest.update(part.cpu().contiguous().numpy())
    return f"sha256:{digest.hexdigest()}"


def _short(value, length: int = 60) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."
