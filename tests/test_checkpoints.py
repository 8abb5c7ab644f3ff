"""Files: all or nothing, never executed, never another file than the one that was meant."""

import errno
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from noprop_helpers import checkpoints
from noprop_helpers.checkpoints import CheckpointError, check_same, check_writable, checksum, write_bytes


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- Checkpoints ---


def test_round_trip_is_exact_and_leaves_nothing_else(tmp_path):
    content = {"state": nn.Linear(3, 2).state_dict(), "numbers": [1, 2.5], "text": "x", "nested": {"none": None}}
    checkpoints.save(tmp_path / "a.pt", content)
    loaded = checkpoints.load(tmp_path / "a.pt")
    assert torch.equal(loaded["state"]["weight"], content["state"]["weight"])
    assert loaded["numbers"] == [1, 2.5] and loaded["nested"] == {"none": None}
    assert names_in(tmp_path) == ["a.pt"]
    assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "content, said",
    [
        ({"seconds": 1.5}, None),
        ({}, "it.pt does not say its seconds: expected a float, got nothing"),
        ({"seconds": "1.5"}, "it.pt does not say its seconds: expected a float, got a str"),
    ],
)
def test_what_a_file_must_say(content, said):
    if said is None:
        assert checkpoints.expect(content, {"seconds": float}, "it.pt") is None
        return
    with pytest.raises(CheckpointError) as error:
        checkpoints.expect(content, {"seconds": float}, "it.pt")
    assert str(error.value) == said


@pytest.mark.parametrize(
    "weight, said",
    [
        (torch.ones(2, 3, dtype=torch.float64), "it.pt does not fit this model: weight is torch.float64 there, expected torch.float32"),
        ([1.0], r"it.pt does not fit this model: weight is [1.0] there, expected torch.float32"),
        (torch.full((2, 3), float("nan")), "it.pt is of no use: its weight is not finite, NaN or infinite; train again"),
    ],
)
def test_weights_that_do_not_fit_are_named(weight, said):
    model = nn.Linear(3, 2)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load_state(model, model.state_dict() | {"weight": weight}, "it.pt")
    assert str(error.value) == said


def test_what_was_loaded_can_be_saved_again_on_any_device(tmp_path):
    """The checksum is of the new content, and no part of what is given back."""
    checkpoints.save(tmp_path / "a.pt", {"checksum": "an old one", "format": "another", "weight": torch.ones(2)})
    for device in ("cpu", torch.device("cpu")):
        assert set(checkpoints.load(tmp_path / "a.pt", device)) == {"format", "weight"}
    on_meta = checkpoints.load(tmp_path / "a.pt", "meta")
    assert set(on_meta) == {"format", "weight"} and on_meta["weight"].device.type == "meta"


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(CheckpointError, match="^cannot read .*a.pt: Permission denied$"):
        checkpoints.load(tmp_path / "a.pt")


@pytest.mark.skipif(checkpoints.fcntl is None, reason="this system has no locks to do without")
def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.fcntl, "flock", lambda handle, how: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    checkpoints.save(tmp_path / "a.pt", {"a": 1})
    assert checkpoints.load(tmp_path / "a.pt")["a"] == 1 and names_in(tmp_path) == ["a.pt"]


def test_the_checksum_tells_a_list_from_a_dictionary_and_takes_any_text():
    sums = [checkpoints.content_checksum({"a": value}) for value in ({}, [], [["b", 1]], {"b": 1}, "\udc80", "\udc81")]
    assert len(set(sums)) == len(sums)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_cannot_execute_anything(tmp_path):
    """A pickle that would make a folder, in both formats a reader may meet, is refused and not run."""
    torch.save({"format": checkpoints.FORMAT, "state": Malicious(tmp_path / "made")}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "made")))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            checkpoints.load(tmp_path / name)
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # the file is as evil as it looks
    assert (tmp_path / "made").exists()


def test_not_even_where_torch_is_told_to(tmp_path, monkeypatch):
    """By this variable somebody's old files are read, without a look, wherever code does not say what it wants."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"format": checkpoints.FORMAT, "state": Malicious(tmp_path / "made")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt is not a readable checkpoint \(UnpicklingError\); train again or name"):
        checkpoints.load(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_tensors_come_where_they_are_wanted(tmp_path):
    checkpoints.save(tmp_path / "a.pt", {"state": nn.Linear(3, 2).state_dict()})
    for device in ("cpu", "meta"):
        assert checkpoints.load(tmp_path / "a.pt", device)["state"]["weight"].device.type == device


def test_an_old_file_survives_a_failed_write(tmp_path):
    checkpoints.save(tmp_path / "a.pt", {"x": 1})
    with pytest.raises(Exception):
        checkpoints.save(tmp_path / "a.pt", {"x": lambda: 0})  # cannot be stored
    assert checkpoints.load(tmp_path / "a.pt")["x"] == 1 and names_in(tmp_path) == ["a.pt"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    checkpoints.save(tmp_path / "good.pt", {"state": nn.Linear(3, 2).state_dict()})
    (tmp_path / "half.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:300])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    torch.save({"state": {}}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": "noprop_helpers 1", "state": {}}, tmp_path / "old.pt")
    for name, message in [
        ("none.pt", "no file"), (".", "no file"), ("half.pt", "not a readable"), ("text.pt", "not a readable"),
        ("empty.pt", "not a readable"), ("foreign.pt", "not written by"), ("list.pt", "not written by"),
        ("old.pt", "not written by this version of noprop_helpers: expected a checkpoint of format 'noprop_helpers 3'"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(tmp_path / name)
    assert issubclass(CheckpointError, ValueError)


def test_weights_go_into_a_module_built_alike_and_no_other(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    for module, message in [
        (nn.Linear(4, 2), r"f does not fit this model: weight has shape \[2, 3\] there, expected \[2, 4\]"),
        (nn.Linear(3, 2, bias=False), "has no bias"),
        (nn.BatchNorm1d(2), "has no weights for num_batches_tracked"),
    ]:
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load_state(module, {**state, **({"weight": state["bias"]} if "Norm" in repr(module) else {})}, "f")
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    alike = nn.Linear(3, 2)
    checkpoints.load_state(alike, state, "f")
    assert torch.equal(alike.weight, state["weight"]) and torch.equal(alike.bias, state["bias"])


# --- Comparing ---


def test_the_first_difference_is_named_wherever_it_is():
    saved = {"run": {"settings": {"epochs": 2, "seed": 0}}, "data": "sha256:1", "extra": 1}
    check_same(saved, {"run": {"settings": {"epochs": 2}}, "data": "sha256:1"}, "f")  # what else it says does not matter
    for expected, message in [
        ({"run": {"settings": {"epochs": 2, "seed": 1}}}, "^f has seed 0, expected 1$"),
        ({"run": {"settings": {"epochs": 3, "seed": 1}}}, "^f has epochs 2, expected 3$"),
        ({"data": "sha256:2"}, "^f has data sha256:1, expected sha256:2$"),
        ({"data": {"train": 1}}, "^f has data sha256:1, expected {'train': 1}$"),
        ({"run": {"model": None}}, "^f does not say its model; expected None$"),
        ({"model": "mlp"}, "^f does not say its model; expected mlp$"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            check_same(saved, expected, "f")
    with pytest.raises(CheckpointError) as refused:
        check_same({"alpha_bar": [0.5] * 1000}, {"alpha_bar": [0.25] * 1000}, "f")
    assert len(str(refused.value)) < 200
    for length, shown in ((59, "x" * 59), (60, "x" * 60), (61, "x" * 60 + r"\.\.\.")):
        with pytest.raises(CheckpointError, match=f"^f has name {shown}, expected None$"):
            check_same({"name": "x" * length}, {"name": None}, "f")


def test_a_checksum_is_of_shape_type_values_and_order():
    x = torch.arange(12.0).view(3, 4)
    same = [x.clone(), x.t().contiguous().t(), torch.cat([x, x])[:3]]  # however they lie in memory
    assert {checksum(y) for y in same} == {checksum(x)}
    changed = x.clone()
    changed[2, 3] += 1
    others = [x.view(4, 3), x.double(), x.int(), changed, x.flip(0)]
    sums = [checksum(x), checksum(x, x), *(checksum(y) for y in others), checksum(x, changed), checksum(changed, x)]
    assert len(set(sums)) == len(sums)
    many = torch.zeros(10_000, 2)  # more than are read at once
    sums = {checksum(many.index_fill(0, torch.tensor(i), 1.0)) for i in (0, 4095, 4096, 9999)}
    assert len(sums) == 4 and checksum(x).startswith("sha256:") and len(checksum(x)) == 71


# --- Writing ---


def test_what_is_written_replaces_a_file_and_keeps_its_mode(tmp_path):
    path = tmp_path / "a"
    write_bytes(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640 and names_in(tmp_path) == ["a"]


def test_what_a_kill_leaves_is_hidden_beside_the_file_and_has_its_name(tmp_path, monkeypatch):
    """So that it is on the same disk, no pattern like *.pt finds it, and it can be told whose it was."""
    replace, seen = os.replace, []
    monkeypatch.setattr(os, "replace", lambda old, new: seen.append((str(old), str(new))) or replace(old, new))
    write_bytes(tmp_path / "a.pt", b"x")
    [(temporary, target)] = seen
    assert temporary.startswith(str(tmp_path / ".a.pt.")) and target == str(tmp_path / "a.pt")


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """Else a machine that loses power in between has a new file of zeros, and no old one."""
    path, done = tmp_path / "a.bin", []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        done.append(("on the disk", os.fstat(handle).st_size))
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("named"), replace(*names)))
    write_bytes(path, b"123")
    assert done == [("on the disk", 3), "named"] and path.read_bytes() == b"123"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_a_write_that_fails_at_its_end_leaves_nothing_beside(tmp_path, monkeypatch, error):
    """Neither the system's refusal nor Ctrl-C: the old file is there, and no half of a new one."""
    write_bytes(tmp_path / "a", b"old")

    def refuse(old, new):
        raise error

    monkeypatch.setattr(os, "replace", refuse)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="cannot write .*a: Permission denied" if isinstance(error, OSError) else None):
        write_bytes(tmp_path / "a", b"new")
    assert names_in(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Two contents written in turns, read all the time: always one of the two, whole."""
    contents, seen, done = [b"a" * 500_000, b"b" * 700_000], set(), threading.Event()
    path = tmp_path / "file"
    write_bytes(path, contents[0])

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + 10
    for i in range(10_000):
        write_bytes(path, contents[i % 2])
        if i >= 100 and len(seen) > 1 or time.monotonic() > end:
            break
    done.set()
    reader.join()
    assert seen == set(contents)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path, there):
    (tmp_path / "real").mkdir()
    if there:
        (tmp_path / "real" / "a").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("real/a")
    check_writable(link)
    write_bytes(link, b"new")
    assert link.is_symlink() and os.readlink(link) == "real/a"
    assert (tmp_path / "real" / "a").read_bytes() == b"new"
    assert names_in(tmp_path) == ["link", "real"] and names_in(tmp_path / "real") == ["a"]


def test_a_device_stays_a_device(device):
    null = device("null")
    check_writable(null)
    write_bytes(null, b"new")
    assert stat.S_ISCHR(os.stat(null).st_mode)


def test_a_pipe_is_written_to(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_writable(pipe)
    write_bytes(pipe, b"new")
    reader.join(10)
    assert got == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode) and names_in(tmp_path) == ["pipe"]


@pytest.mark.slow
def test_standard_output_is_a_file_too():
    """Behind /dev/stdout is often a pipe, which has no other name."""
    code = "from noprop_helpers.checkpoints import *; check_writable('/dev/stdout'); write_bytes('/dev/stdout', b'new')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.stdout, done.stderr) == (b"new", b"")


@pytest.mark.parametrize("name, message", [
    ("folder", "cannot write .*folder: it is a folder; name a file"),
    ("no/such/a", "cannot write .*no/such/a: the folder .*no/such does not exist; create it first"),
    ("file/a", "cannot write .*file/a: the folder .*file does not exist"),
    ("x" * 300, "cannot write .*: File name too long"),
])  # fmt: skip
def test_what_cannot_be_written_is_told_before_the_work(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=message):
        check_writable(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot write"):
        write_bytes(tmp_path / name, b"x")
    assert names_in(tmp_path) == ["file", "folder"]


def test_an_empty_name_is_no_name():
    for write in (check_writable, lambda path: write_bytes(path, b"x"), lambda path: checkpoints.save(path, {})):
        with pytest.raises(CheckpointError, match="^expected the name of a file to write, got an empty one$"):
            write("")


def test_a_check_leaves_no_trace(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        check_writable(tmp_path / name)
    assert names_in(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_a_full_device_is_one_clear_line(device):
    full = device("full")
    for write in (lambda: write_bytes(full, b"x"), lambda: checkpoints.save(full, {"x": torch.zeros(3)})):
        with pytest.raises(CheckpointError, match=f"^cannot write {full}: No space left on device$"):
            write()
    assert stat.S_ISCHR(os.stat(full).st_mode)


def test_a_full_disk_keeps_the_old_file(small_disk):
    checkpoints.save(small_disk / "a.pt", {"x": 1})
    for write in (
        lambda: checkpoints.save(small_disk / "a.pt", {"x": torch.zeros(100_000)}),
        lambda: write_bytes(small_disk / "a.pt", bytes(100_000)),
    ):
        with pytest.raises(CheckpointError, match="cannot write .*a.pt: No space left on device"):
            write()
    assert checkpoints.load(small_disk / "a.pt")["x"] == 1 and names_in(small_disk) == ["a.pt"]


def test_a_read_only_disk_is_told_before_the_work(small_disk):
    checkpoints.save(small_disk / "a.pt", {"x": 1})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("a.pt", "b.pt"):
        for write in (check_writable, lambda path: checkpoints.save(path, {"x": 2})):
            with pytest.raises(CheckpointError, match=f"cannot write .*{name}: Read-only file system"):
                write(small_disk / name)
    assert checkpoints.load(small_disk / "a.pt")["x"] == 1


# --- What goes wrong between a byte and its disk ---


def killed_while_writing(path, at):
    """A process that writes the file, killed by SIGKILL when it calls this function of the system."""
    if pid := os.fork():
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
    setattr(os, at, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    write_bytes(path, b"half of it")
    os._exit(0)


@pytest.mark.parametrize("at", ["chmod", "replace"])
@pytest.mark.parametrize("name", ["a.pt", "[a]*?.pt"])
def test_what_a_killed_writer_left_goes_with_the_next_write(at, name, tmp_path):
    write_bytes(tmp_path / name, b"old")
    others = [f".{name}x.12345678.tmp", f".x{name}.12345678.tmp", f".{name}.backup", f"{name}.12345678.tmp"]
    for other in others:
        (tmp_path / other).touch()
    assert killed_while_writing(tmp_path / name, at) == signal.SIGKILL
    assert (tmp_path / name).read_bytes() == b"old" and len(names_in(tmp_path)) == len(others) + 2
    write_bytes(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new" and names_in(tmp_path) == sorted([name, *others])


def test_what_a_living_writer_writes_stays(tmp_path, monkeypatch):
    """Two processes write one file at the same time: each leaves it whole, and the last one wins."""
    replace, seen = os.replace, []

    def slowly(source, target):
        with monkeypatch.context() as m:
            m.setattr(os, "replace", replace)
            write_bytes(target, b"of another")
        seen.append(names_in(tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", slowly)
    write_bytes(tmp_path / "a", b"mine")
    assert len(seen) == 1 and len(seen[0]) == 2 and (tmp_path / "a").read_bytes() == b"mine" and names_in(tmp_path) == ["a"]


def test_a_writer_whose_new_file_was_swept_takes_another(tmp_path, monkeypatch):
    lock, swept = checkpoints._locked, []

    def late(handle):
        if not swept:  # before it is locked, another writer takes it for what a killed one left
            swept.extend(tmp_path.glob(".a.*"))
            swept[0].unlink()
        return lock(handle)

    monkeypatch.setattr(checkpoints, "_locked", late)
    write_bytes(tmp_path / "a", b"mine")
    assert len(swept) == 1 and (tmp_path / "a").read_bytes() == b"mine" and names_in(tmp_path) == ["a"]


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    """As on Windows: what a killed writer left stays, as nobody knows whether it is dead."""
    monkeypatch.setattr(checkpoints, "fcntl", None)
    (tmp_path / ".a.12345678.tmp").touch()
    write_bytes(tmp_path / "a", b"mine")
    check_writable(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine" and names_in(tmp_path) == [".a.12345678.tmp", "a"]


@pytest.mark.parametrize("at", ["fdopen", "chmod", "replace", "stat"])
def test_a_disk_that_fails_at_any_moment_leaves_the_old_file(at, tmp_path, monkeypatch):
    """A full disk tells of itself when a file is made, written, closed, or renamed."""
    checkpoints.save(tmp_path / "a.pt", {"x": 1})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m, pytest.raises(CheckpointError, match="cannot write .*a.pt: No space left on device$"):
        m.setattr(checkpoints.tempfile if at == "stat" else os, "mkstemp" if at == "stat" else at, full)
        checkpoints.save(tmp_path / "a.pt", {"x": 2})
    assert checkpoints.load(tmp_path / "a.pt")["x"] == 1 and names_in(tmp_path) == ["a.pt"]


def test_a_flipped_bit_is_found_wherever_it_changes_something(tmp_path):
    """Every byte of a small file in turn, one bit of it: refused, or it holds the same as before."""
    content = {"state": {"weight": torch.arange(6.0).view(2, 3), "flag": torch.tensor(True)}, "history": torch.ones(2), "epochs": 3}
    checkpoints.save(tmp_path / "a.pt", content)
    whole, refused, damaged = (tmp_path / "a.pt").read_bytes(), 0, 0
    weights = whole.index(content["state"]["weight"].numpy().tobytes())
    for place in {*range(0, len(whole), 7), *range(weights, weights + 24)}:
        (tmp_path / "b.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            again = checkpoints.load(tmp_path / "b.pt")
        except CheckpointError as error:
            refused, damaged = refused + 1, damaged + ("is damaged" in str(error))
            continue
        assert torch.equal(again["state"]["weight"], content["state"]["weight"]) and again["state"]["flag"] and again["epochs"] == 3
        assert not weights <= place < weights + 24 and torch.equal(again["history"], content["history"])
    assert damaged >= 24 and refused > damaged


def test_a_checksum_is_of_all_that_a_file_holds():
    content = {"a": torch.zeros(2), "b": [1, 2.0, None], "c": {"d": "x"}}
    others = [
        content | {"a": torch.zeros(3)}, content | {"a": torch.zeros(2).double()}, content | {"a": torch.tensor([0.0, 1e-45])},
        content | {"b": [1, 2, None]}, content | {"b": [1, 2.0]}, content | {"b": [[1, 2.0], None]}, content | {"c": {"e": "x"}},
        content | {"c": {"d": "y"}}, content | {"c": ["d", "x"]}, {"b": content["b"], "a": content["a"], "c": content["c"]},
    ]  # fmt: skip
    sums = {checkpoints.content_checksum(one) for one in [content, *others]}
    assert len(sums) == 11 and checkpoints.content_checksum(dict(content)) in sums
    for tensor in (torch.zeros(2, dtype=torch.bfloat16), torch.tensor(3), torch.zeros(0), torch.zeros(2, 3).t(), torch.tensor(True)):
        assert checkpoints.content_checksum({"x": tensor}).startswith("sha256:")


def test_what_is_loaded_and_saved_again_has_its_own_checksum(tmp_path):
    checkpoints.save(tmp_path / "a.pt", {"x": 1, "y": 2})
    checkpoints.save(tmp_path / "b.pt", checkpoints.load(tmp_path / "a.pt") | {"x": 3})
    assert checkpoints.load(tmp_path / "b.pt") == {"format": checkpoints.FORMAT, "x": 3, "y": 2}


def test_a_file_is_known_by_its_mark(tmp_path, device):
    write_bytes(tmp_path / "a", b"x")
    before = checkpoints.mark(tmp_path / "a")
    assert checkpoints.mark(tmp_path / "a") == before is not None
    write_bytes(tmp_path / "a", b"x")
    assert checkpoints.mark(tmp_path / "a") != before
    assert checkpoints.mark(tmp_path / "none") is checkpoints.mark(device("null")) is None


@pytest.mark.parametrize("value", [numpy.float64(0.5), Path("model.pt"), {1, 2}, checkpoints.torch.Size([2])])
def test_what_could_not_be_read_again_is_not_written(value, tmp_path):
    for content in ({"x": value}, {"x": {"y": [value]}}):
        said = re.escape(f"a checkpoint holds tensors and Python's own numbers and text, got {type(value).__name__} {value}")
        with pytest.raises(CheckpointError, match=f"^{said}$"):
            checkpoints.save(tmp_path / "a.pt", content)
    assert list(tmp_path.iterdir()) == []


def test_what_is_returned_is_what_was_verified(tmp_path, monkeypatch):
    """Whoever trains may replace the file between two reads of it."""
    checkpoints.save(tmp_path / "a.pt", {"epoch": 1})
    load, again = torch.load, []

    def replaced(file, **options):
        again.append(checkpoints.save(tmp_path / "a.pt", {"epoch": 2}))
        return load(file, **options)

    monkeypatch.setattr(torch, "load", replaced)
    assert checkpoints.load(tmp_path / "a.pt", "meta")["epoch"] == 1 and len(again) == 2


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_new_files_are_as_private_as_their_owner_wants(tmp_path):
    before = os.umask(0o077)
    try:
        write_bytes(tmp_path / "a.bin", b"1")
        (tmp_path / "b.bin").write_bytes(b"1")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.bin", "b.bin")}
    assert modes == {0o600}


def test_a_tensor_where_a_number_was_expected_is_a_difference():
    with pytest.raises(CheckpointError, match="a.pt has epochs tensor"):
        check_same({"epochs": torch.ones(2)}, {"epochs": 3}, "a.pt")
