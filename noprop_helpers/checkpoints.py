"""Files of weights and results: written all or nothing, read without executing anything that they contain.

``torch.load`` on an untrusted file may run code. These functions store tensors, numbers and text only, and read with
``weights_only=True``, which refuses all else. A checksum of the content goes with it: a byte that a disk has changed is found.
"""

import collections
import contextlib
import glob
import hashlib
import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = "noprop_helpers 3"


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
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # by the name given: a pipe behind /dev/stdout has no other
            with open(path, "wb") as file:
                file.write(content)
            return
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()  # mkstemp gives 600
        _sweep(target)  # before: it may be what fills the disk
        with _temporary(target) as (handle, temporary):
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # where the power fails, the new name must not be on the disk before the content
            os.chmod(temporary, mode)
            os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def _umask() -> int:
    """What this user wants new files not to allow; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[int, str]]:
    """A new file beside ``target``, its handle for the body to close, and its name; gone afterwards, if it still has that name.

    Meanwhile it is locked, where the system knows locks: so others see that its writer lives (see ``_sweep``).
    """
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        lock = _locked(handle)
        if os.path.exists(name):
            break
        os.close(handle)  # swept away by another writer, before it was locked
        os.close(lock)
    try:
        yield handle, name
    finally:
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _locked(handle: int) -> int | None:
    """Lock a file until the handle that is returned is closed, not the one that was given; None where there are no locks."""
    if fcntl is None:
        return None
    lock = os.dup(handle)
    with contextlib.suppress(OSError):  # a file system without locks: there nobody can lock, and nothing is swept
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _sweep(target: Path) -> None:
    """Remove what writers of this file left that were killed while they wrote: nobody holds its lock any more."""
    for name in glob.glob(f".{glob.escape(target.name)}.????????.tmp", root_dir=target.parent) if fcntl else ():
        with contextlib.suppress(OSError), open(target.parent / name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its writer lives
            os.unlink(target.parent / name)


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
        with _temporary(target) as (handle, _):  # as ``write_bytes`` will: its name is longer than the file's own
            os.close(handle)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def save(path: str | Path, content: dict) -> None:
    """Write a dictionary of tensors, Python's own numbers, text and nested lists, tuples or dictionaries of them, all or nothing.

    Raises CheckpointError where it cannot be written, and on what ``load`` would refuse to read, as NumPy's numbers.

    >>> save("model.pt", {"state": {"weight": torch.ones(2)}, "epochs": 3})
    >>> load("model.pt")["epochs"]
    3
    """
    content = {name: value for name, value in content.items() if name not in ("format", "checksum")}  # of where it came from
    buffer = io.BytesIO()  # torch tells a full disk in words of its own; the file is written by us
    torch.save({"format": FORMAT, "checksum": content_checksum(content), **content}, buffer)
    write_bytes(path, buffer.getbuffer())


def load(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read what ``save`` wrote. Raises CheckpointError where there is no such file, it is something else, or it is damaged:
    its content is not that of the checksum that was written with it.

    >>> save("model.pt", {"state": {"weight": torch.ones(2)}, "epochs": 3})
    >>> load("model.pt")["state"]
    {'weight': tensor([1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        written = path.read_bytes()  # once: what is verified is what is returned, whoever writes meanwhile
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    content = _read(written, path, "cpu")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of noprop_helpers: expected a checkpoint of format {FORMAT!r}"
        )
    checksum = content.pop("checksum", None)
    if checksum != content_checksum({name: value for name, value in content.items() if name != "format"}):
        raise CheckpointError(f"{path} is damaged: its content is not what was written; take a copy of it, or train again")
    if torch.device(device).type == "cpu":
        return content
    return {name: value for name, value in _read(written, path, device).items() if name != "checksum"}


def _read(written: bytes, path: Path, device: torch.device | str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange files: the error that follows says more
            return torch.load(io.BytesIO(written), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds: truncated zip, foreign pickle, not a file of torch's at all
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again or name another"
        ) from None


def expect(content: dict, kinds: dict[str, type], source: str | Path) -> None:
    """Raise CheckpointError unless ``content`` has all these entries, each of its kind.

    >>> try:
    ...     expect({"state": {}}, {"state": dict, "seconds": float}, "model.pt")
    ... except CheckpointError as error:
    ...     print(error)
    model.pt does not say its seconds: expected a float, got nothing
    """
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            found = f"a {type(content[name]).__name__}" if name in content else "nothing"
            raise CheckpointError(f"{source} does not say its {name}: expected a {kind.__name__}, got {found}")


def mark(path: str | Path) -> tuple[int, ...] | None:
    """What changes whenever a file is written by anybody; None where there is none, or a device.

    >>> write_bytes("numbers.bin", b"123")
    >>> before = mark("numbers.bin")
    >>> write_bytes("numbers.bin", b"123")
    >>> mark("numbers.bin") != before
    True
    """
    if not os.path.isfile(path):
        return None
    told = os.stat(path)
    return told.st_ino, told.st_size, told.st_mtime_ns


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
            found = state[name].dtype if isinstance(state[name], Tensor) else _short(state[name])
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
        elif isinstance(saved[name], Tensor) or saved[name] != value:
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


def content_checksum(content: dict) -> str:
    """``sha256:<hex>`` of all that a checkpoint holds, names, values and tensors, in their order.

    >>> content_checksum({"x": torch.zeros(3)}) == content_checksum({"x": torch.zeros(3)}) != content_checksum({"x": 0})
    True
    """
    digest = hashlib.sha256()
    _digest(digest, content)
    return f"sha256:{digest.hexdigest()}"


def _digest(digest, value) -> None:
    """Feed a value to a digest, with the shapes, types and lengths that tell it from any other."""
    if isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif type(value) in (dict, collections.OrderedDict, list, tuple):
        digest.update(f"{len(value)} in {'{' if isinstance(value, dict) else '['}".encode())
        for item in value.items() if isinstance(value, dict) else value:
            _digest(digest, item)
    elif value is None or type(value) in (bool, int, float, str):
        digest.update(f"{value!r};".encode())
    else:
        raise CheckpointError(f"a checkpoint holds tensors and Python's own numbers and text, got {type(value).__name__} {_short(value)}")


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
