"""What a person, a script or a broken disk may ask of the command line, as data: a command as it is typed, the exit code that it
must have, and words of the one line that must come of it.

``python tests/hostile_cli.py`` runs all of it and counts what came; the suite does the same in ``test_hostile_cli.py``.
"""

import contextlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import torch
from conftest import write_mnist
from PIL import Image

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints
from noprop_helpers.lab import conformance, course, digits_script, gpu_session, landing

PROGRAMS = {
    "conformance": conformance.main, "course": course.main, "digits_script": digits_script.main,
    "gpu_session": gpu_session.main, "landing": landing.main,
}  # fmt: skip
SHORT = {
    "@mine": "--dataset folder:mine --preset local --set num_centres=5 --set num_steps=3 --set hidden_dim=8 --epochs 2",
    "@one": "--dataset folder:mine --preset local --set num_centres=5 --set num_steps=3 --set hidden_dim=8 --epochs 1",
    "@digits": "--set num_steps=2 --set hidden_dim=8 --epochs 1",
    "@paper": "--dataset folder:mine --preset paper --set num_steps=2 --epochs 1",
}
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
NO_NETWORK |= {"NO_PROXY": "", "no_proxy": ""}
HANGS_AFTER = 30  # seconds


class Row(NamedTuple):
    """``typed``: a command without ``python -m noprop_helpers``, or one of the lab's, by its name; ``code``: its exit code;
    ``words``: of its one line on standard error, or of its result where the code is 0; ``given``: variables of the environment,
    None for one that is not set."""

    typed: str
    code: int
    words: str
    given: dict[str, str | None] = {}


class Outcome(NamedTuple):
    """What became of a row: its exit code, None where a traceback or nothing at all came; what it wrote, where."""

    code: int | None
    out: str
    err: str


# --- The place --------------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, names: tuple[str, ...], size: tuple[int, int] = (8, 8), number: int = 6) -> None:
    """FOLDER/CLASS/*.png of grey noise, the classes brighter one than the other."""
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            noise = random.Random(f"{name} {i}").randbytes(size[0] * size[1])
            Image.frombytes("L", size, bytes(80 * k + value // 4 for value in noise)).save(folder / name / f"{i}.png")


def flipped(content: bytes, weights: torch.Tensor) -> bytes:
    """A file's bytes, with one bit of these weights another."""
    place = content.index(weights.contiguous().numpy().tobytes()) + 1
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def write_damaged(folder: Path) -> None:
    """Of a good checkpoint a.pt, others with whatever can be wrong with one."""
    good, whole = checkpoints.load(folder / "a.pt"), (folder / "a.pt").read_bytes()
    (folder / "text.pt").write_text("hello")
    (folder / "empty.pt").touch()
    (folder / "short.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "shorter.pt").write_bytes(whole[:-100])
    (folder / "flipped.pt").write_bytes(flipped(whole, good["state"]["layers.1.mlp.0.weight"]))
    (folder / "moments.pt").write_bytes(flipped(whole, good["optimizer"]["state"][0]["exp_avg"]))
    torch.save({"state": {}}, folder / "foreign.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"format": "noprop_helpers 1", "state": {}}, folder / "old.pt")
    torch.save({"format": checkpoints.FORMAT, "state": {}}, folder / "unsigned.pt")
    about, run = good["about"], good["about"]["run"]
    weights = {"state": good["state"], "model": good["model"]}
    for name, content in {
        "weights": weights,
        "half": good | {"history": good["history"][:1], "where": good["where"] | {"threads": 1}},
        "no_state": {key: value for key, value in good.items() if key != "state"},
        "no_history": {key: value for key, value in good.items() if key != "history"},
        "no_seconds": {key: value for key, value in good.items() if key != "seconds"},
        "no_model": {key: value for key, value in good.items() if key != "model"},
        "no_settings": good | {"about": about | {"run": {"recipe": "local"}}},
        "text_about": good | {"about": "local"},
        "text_run": good | {"about": about | {"run": "local"}},
        "text_model": good | {"model": "local"},
        "text_state": good | {"state": "weights"},
        "text_weight": good | {"state": good["state"] | {"layers.0.mlp.0.weight": "x"}},
        "text_history": good | {"history": "none"},
        "text_seconds": good | {"seconds": "many"},
        "text_moments": good | {"optimizer": "adam"},
        "unknown_recipe": good | {"about": about | {"run": run | {"recipe": "best"}}},
        "unknown_setting": good | {"about": about | {"run": run | {"settings": run["settings"] | {"depth": 3}}}},
        "bad_setting": good | {"about": about | {"run": run | {"settings": run["settings"] | {"seed": -1}}}},
        "text_setting": good | {"about": about | {"run": run | {"settings": run["settings"] | {"epochs": "two"}}}},
        "bad_shape": good | {"about": about | {"image_shape": [1, 0, -3]}},
        "text_shape": good | {"about": about | {"image_shape": "8x8"}},
        "bad_classes": good | {"about": about | {"class_names": 3}},
        "few_classes": good | {"about": about | {"class_names": ["cat", "dog"]}},
        "no_steps": good | {"about": about | {"run": run | {"model": run["model"] | {"num_steps": 0}}}},
        "no_checksum": good | {"about": {key: value for key, value in about.items() if key != "dataset_checksum"}},
    }.items():
        checkpoints.save(folder / f"{name}.pt", {key: value for key, value in content.items() if key != "format"})


def write_kept(folder: Path) -> None:
    """Folders of records with interrupted recordings and benchmarks that are none."""
    partials = {"text": b"hello", "json": b"{}", "run": (folder / "a.pt").read_bytes(), "empty": b""}
    for name, content in partials.items():
        (folder / f"records {name}").mkdir()
        (folder / f"records {name}" / "mnist_local@digits.partial").write_bytes(content)
    for name, content in {
        "words": b"hello", "list": b"[]", "empty": b"", "bytes": b"\xff\xfe\x00", "rows": b'{"benchmark": "cpu"}',
        "deep": b"[" * 100_000,
    }.items():  # fmt: skip
        (folder / f"bench {name}").mkdir()
        (folder / f"bench {name}" / "bench_cpu.json").write_bytes(content)
    for name, value in {"list": [], "rows": {"jobs": 3}}.items():
        (folder / f"session {name}").mkdir()
        (folder / f"session {name}" / "session.json").write_text(json.dumps(value))


def write_place(folder: Path) -> None:
    """All that the rows speak of, in a folder."""
    for name, classes in {"mine": ("cat", "dog", "owl"), "tiere ü ключ": ("Bär", "мышь"), "one": ("cat",)}.items():
        write_pictures(folder / name, classes)
    write_pictures(folder / "large", ("cat", "dog", "owl"), size=(12, 12))
    write_pictures(folder / "few", ("cat", "dog"), number=1)
    for name in ("nothing", "folder.pt", "folder.json", "empty classes/cat", "empty classes/dog"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("a file\n")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("no/such/place")
    write_mnist(folder / "data with spaces")
    pictures = {"a b.png": "cat", "ключ 키.png": "dog", os.fsdecode(b"latin-\xe9.png"): "owl"}
    for name, label in pictures.items():
        (folder / name).write_bytes((folder / "mine" / label / "0.png").read_bytes())
    (folder / "text.png").write_text("hello")
    (folder / "records").mkdir()
    for name in ("secret.pt", "secret.png", "bench secret/bench_cpu.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("nobody's business")
    (folder / "mine secret").mkdir()
    with current_folder(folder):
        for options, file in (
            ("", "a.pt"), ("--layers 1-2", "p1.pt"), ("--layers 3", "p2.pt"), ("--layers 3 --seed 1", "q2.pt"),
            ("--dataset 'folder:tiere ü ключ'", "ü.pt"), ("--preset paper --variant fm --epochs 1 --set num_steps=2", "fm.pt"),
        ):  # fmt: skip
            told = outcome(Row(f"train @mine {options} --checkpoint {file}" if file != "fm.pt" else
                               f"train @paper --variant fm --checkpoint {file}", 0, ""))  # fmt: skip
            assert told.code == 0, told.err
    write_damaged(folder)
    write_kept(folder)


# --- Running a row ----------------------------------------------------------------------------------------------------


def words_of(row: Row) -> list[str]:
    """The words of a row's command, as a shell makes them."""
    return [part for word in shlex.split(row.typed) for part in shlex.split(SHORT.get(word, shlex.quote(word)))]


@contextlib.contextmanager
def current_folder(folder: Path) -> Iterator[None]:
    """Work in a folder, and afterwards where one was."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def environment(given: dict[str, str | None]) -> Iterator[None]:
    """Variables of the environment, and afterwards what was there."""
    before = dict(os.environ)
    try:
        for name, value in given.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """A TimeoutError where something takes longer."""

    def ring(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(row: Row) -> Outcome:
    """Run a row's command in this process, in the current folder."""
    words = words_of(row)
    program = PROGRAMS[words[0]] if words and words[0] in PROGRAMS else cli.main
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with environment(row.given), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), alarm(HANGS_AFTER):
        try:
            code = program(words[1:] if program is not cli.main else words) or 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = None
            traceback.print_exc()
    torch.set_num_threads(threads)
    return Outcome(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[Path, bytes]:
    """All files of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fault(row: Row, told: Outcome, changed: bool) -> str:
    """What is wrong with the outcome of a row, in words; empty where it is as it must be. ``changed``: a file was."""
    if told.code is None:
        return "hangs" if "it hangs" in told.err else "traceback"
    if row.code == 2 and told.code == 0:
        return "silently accepted"
    if told.code != row.code:
        return f"code {told.code} in place of {row.code}"
    if row.code == 2 and (told.out or len(told.err.splitlines()) != 1):
        return "not one line"
    if row.words not in (told.err if row.code == 2 else told.out + told.err):
        return "other words"
    if row.code == 2 and changed:
        return "changed a file"
    return ""


# --- The table --------------------------------------------------------------------------------------------------------

Case = tuple  # (typed, code, words) or (typed, code, words, variables of the environment)

ARGUMENTS: list[Case] = [
    ("", 2, "required: train | predict | join | record | bench"),
    ("trian", 2, "invalid choice: 'trian'"),
    ("--version", 2, "required"),
    ("train extra", 2, "unrecognized arguments: extra"),
    ("train --no-such-option", 2, "unrecognized arguments"),
    ("train --epochs", 2, "--epochs: expected one argument"),
    ("train --epochs 0", 2, "expected an integer >= 1, got '0'"),
    ("train --epochs -3", 2, "expected an integer >= 1, got '-3'"),
    ("train --epochs 1e3", 2, "expected an integer >= 1, got '1e3'"),
    ("train --epochs nan", 2, "got 'nan'"),
    ("train --epochs ''", 2, "got ''"),
    ("train --epochs 9223372036854775808", 2, "expected an integer >= 1"),
    ("train --epochs 1_0", 2, "got '1_0'"),
    ("train --epochs ١", 2, "expected an integer >= 1, got '١'"),
    ("train --seed -1", 2, "expected an integer >= 0, got '-1'"),
    ("train --seed 18446744073709551616", 2, "expected an integer >= 0"),
    ("train --seed 0x10", 2, "got '0x10'"),
    ("train --threads 0", 2, "expected an integer >= 1, got '0'"),
    ("train --threads 100000", 2, "--threads: expected at most"),
    ("train --threads 9223372036854775807", 2, "--threads: expected at most"),
    ("train --device gpu", 2, "invalid choice: 'gpu'"),
    ("train --device cuda", 2, "sees no CUDA GPU"),
    ("train --precision float16", 2, "invalid choice: 'float16'"),
    ("train --preset Shared", 2, "invalid choice: 'Shared'"),
    ("train --variant dt --preset paper-dt", 2, "invalid choice: 'paper-dt'"),
    ("train --variant ct --preset shared", 2, "take the preset paper"),
    ("train --embedding learned --preset local", 2, "take the preset paper"),
    ("train --embedding words", 2, "invalid choice: 'words'"),
    ("train --image-size 0", 2, "expected a size in pixels"),
    ("train --image-size 8x", 2, "expected a size in pixels"),
    ("train --image-size 8", 2, "digits comes in its own"),
    ("train --layers 0 --preset local --checkpoint n.pt", 2, "layers must be numbers from 1"),
    ("train --layers 1-999999999999 --preset local --checkpoint n.pt", 2, "expected layers such as 1-5"),
    ("train --layers 1,1 --preset local --checkpoint n.pt", 2, "layers must be numbers from 1, in rising order"),
    ("train --layers 2-11 --preset local --checkpoint n.pt", 2, "expected layers out of 1 to 10"),
    ("train --layers 1-3 --preset local", 2, "--layers needs --checkpoint FILE"),
    ("train --layers 1-3 --checkpoint n.pt", 2, "one encoder is trained by all layers"),
    ("train --layers 1 --variant fm --checkpoint n.pt", 2, "one block for all times"),
    ("train --layers 1,2 --preset closed_form --set num_steps=1 --checkpoint n.pt", 2, "expected layers out of 1 to 1"),
]

SETTINGS: list[Case] = [
    ("train @mine --set depth=3", 2, "local has no setting 'depth'"),
    ("train @mine --set epochs", 2, "expected NAME=VALUE"),
    ("train @mine --set ''", 2, "expected NAME=VALUE"),
    ("train @mine --set =", 2, "has no setting ''"),
    ("train @mine --set seed=3 --seed 4", 2, "seed is given twice"),
    ("train @mine --set num_steps=0", 2, "num_steps is given twice"),
    ("train @digits --set learning_rate=nan", 2, "finite learning_rate above 0"),
    ("train @digits --set learning_rate=inf", 2, "finite learning_rate above 0"),
    ("train @digits --set learning_rate=-1e-3", 2, "finite learning_rate above 0"),
    ("train @digits --set learning_rate=0", 2, "finite learning_rate above 0"),
    ("train @digits --set learning_rate=1,5", 2, "learning_rate: expected a value of type float, got '1,5'"),
    ("train @digits --set learning_rate=1e38", 2, "diverged"),
    ("train @digits --set weight_decay=nan", 2, "weight_decay of at least 0"),
    ("train @digits --set weight_decay=-1", 2, "weight_decay of at least 0"),
    ("train @digits --set feature_dropout=1", 2, "feature_dropout must be at least 0 and below 1"),
    ("train @digits --set feature_dropout=nan", 2, "feature_dropout must be at least 0 and below 1"),
    ("train @digits --set batch_size=0", 2, "batch_size must be at least 1"),
    ("train @digits --set batch_size=1", 2, "batch_size must be at least 2"),
    ("train @digits --set batch_size=999999999999999999999", 2, "batch_size"),
    ("train @digits --set optimizer=sgd", 2, "optimizer must be one of adam, adamw"),
    ("train @digits --set order=solved", 2, "order solved takes one pass"),
    ("train --set num_steps=-1", 2, "num_steps must be at least 1"),
    ("train @digits --set one_cycle=false --set learning_rate=1e30 --set batch_size=2000", 2, "is not finite, or huge, after epoch 1"),
    ("train --preset residual --set num_steps=1 --set width=1 --set augment=false --set order=together --epochs 1", 2,
     "these layers cannot be trained together; use order layer"),
    ("train --preset published --set num_steps=1100 --epochs 1", 2, "alpha_bar must lie in (0, 1]"),
    ("train --preset local --set num_steps=2 --layers 1-1000000 --checkpoint n.pt", 2, "expected layers out of 1 to 2, got 1000000"),
    ("train --set num_steps=1000000000000", 2, "num_steps must be at most"),
    ("train --set hidden_dim=0", 2, "hidden_dim must be at least 1"),
    ("train --set hidden_dim=100000000000", 2, "hidden_dim must be at most 100,000"),
    ("train --set hidden_dim=99999999999999999999", 2, "hidden_dim"),
    ("train --preset local --set num_centres=10000000000000", 2, "num_centres"),
    ("train --preset local --set patch_size=9", 2, "patches of 9 x 9 pixels do not fit"),
    ("train --preset closed_form --set weight_decay=0", 2, "order solved"),
    ("train --preset closed_form --epochs 2", 2, "order solved takes one pass"),
    ("train --preset residual --set width=0", 2, "width must be at least"),
    ("train --preset published --set hidden_dim=3", 2, "published has no setting 'hidden_dim'"),
    ("train @paper --variant ct --set eta=nan", 2, "eta"),
    ("train @paper --set eta=-1", 2, "eta"),
    ("train @paper --set embed_dim=0", 2, "embed_dim"),
    ("train @paper --set order=together", 2, "only the small layers"),
    ("train @paper --variant fm --set embedding=words", 2, "embedding must be one of"),
    ("train @digits --set augment=maybe", 2, "augment: expected true or false"),
    ("train @digits --set precision=double", 2, "precision must be one of"),
]

DATA: list[Case] = [
    ("train --dataset ''", 2, "expected a data set"),
    ("train --dataset MNIST", 2, "expected a data set"),
    ("train --dataset folder:", 2, "expected the path of a folder"),
    ("train --dataset folder:none", 2, "found no folder"),
    ("train --dataset folder:file", 2, "found no folder"),
    ("train --dataset folder:loop", 2, "found no folder"),
    ("train --dataset folder:nothing", 2, "expected"),
    ("train --dataset 'folder:empty classes'", 2, "expected at least one image"),
    ("train --dataset folder:one", 2, "one class"),
    ("train --dataset folder:few", 2, "expected two images at least"),
    ("train --dataset mnist --data-root file", 2, "expected a folder, found a file"),
    ("train --dataset mnist --data-root nothing", 2, "download failed", NO_NETWORK),
    ("train --dataset mnist", 2, "download failed", NO_NETWORK | {"NOPROP_DATA": "no/such/place"}),
    ("train --dataset cifar10", 2, "download failed", NO_NETWORK | {"NOPROP_DATA": None}),
    ("train --dataset fashion_mnist --data-root dangling", 2, "fashion_mnist", NO_NETWORK),
    ("train --dataset mnist", 2, "expected a folder, found a file", {"NOPROP_DATA": "file"}),
    ("train --dataset mnist --data-root /proc/none", 2, "mnist", NO_NETWORK),
    ("train @digits", 0, "digits shared: test accuracy", {"NOPROP_DATA": "no/such/place"}),
    ("train @digits", 0, "digits shared: test accuracy", {"HOME": None}),
    ("train @digits", 0, "digits shared: test accuracy", {"HOME": "/proc/none"}),
    ("train @digits", 0, "digits shared: test accuracy", NO_NETWORK),
    ("train @mine --data-root ~/none", 0, "folder:mine local: test accuracy", {"HOME": None}),
    ("train @one --dataset 'folder:tiere ü ключ'", 0, "folder:tiere ü ключ local: test accuracy"),
    ("train --dataset mnist --data-root 'data with spaces' @digits", 0, "mnist shared: test accuracy"),
    ("train --dataset mnist @digits", 0, "mnist shared", {"NOPROP_DATA": "data with spaces"}),
]

FILES: list[Case] = [
    ("train @mine --json ''", 2, "got an empty one"),
    ("train @mine --json folder.json", 2, "it is a folder"),
    ("train @mine --json no/such/out.json", 2, "does not exist; create it first"),
    ("train @mine --json file/out.json", 2, "does not exist"),
    ("train @mine --json dangling", 2, "does not exist"),
    ("train @mine --json /proc/out.json", 2, "cannot write /proc/out.json"),
    ("train @digits --json /dev/full", 2, "No space left on device"),
    ("train @digits --checkpoint /dev/full", 2, "No space left on device"),
    ("train @mine --checkpoint ''", 2, "got an empty one"),
    ("train @mine --checkpoint folder.pt", 2, "it is a folder"),
    ("train @mine --checkpoint a.pt", 2, "a.pt exists"),
    ("train @mine --checkpoint text.png", 2, "text.png exists"),
    ("train @mine --checkpoint no/such/n.pt", 2, "does not exist"),
    ("train @mine --checkpoint n.pt --json n.pt", 2, "are one file"),
    ("train @mine --checkpoint n.pt --json nothing/../n.pt", 2, "are one file"),
    ("train @mine --resume", 2, "--resume needs --checkpoint FILE"),
    ("train @mine --resume --checkpoint none.pt", 2, "no file none.pt"),
    ("train @mine --resume --checkpoint folder.pt", 2, "it is a folder"),
    ("train @mine --resume --checkpoint file", 2, "file is not a readable checkpoint"),
    ("train @one --json /dev/null", 0, "test accuracy"),
    ("train @one --json 'out with spaces.json'", 0, "test accuracy"),
    ("train @one --json ключ.json --checkpoint 키.pt", 0, "test accuracy"),
    ("train @mine --resume --checkpoint a.pt", 0, "test accuracy"),
]

RESUMED: list[Case] = [
    *(
        (f"train @mine --resume --checkpoint {name}.pt", 2, words)
        for name, words in {
            "text": "not a readable checkpoint", "empty": "not a readable checkpoint", "short": "not a readable checkpoint",
            "shorter": "not a readable checkpoint", "flipped": "flipped.pt is damaged", "moments": "moments.pt is damaged",
            "foreign": "not written by this version", "list": "not written by this version",
            "old": "not written by this version", "unsigned": "unsigned.pt is damaged",
            "weights": "no training to resume", "no_state": "no_state.pt", "no_history": "no_history.pt",
            "no_seconds": "no_seconds.pt", "no_model": "no_model.pt does not say its model",
            "text_about": "text_about.pt has about", "text_model": "text_model.pt has model",
            "text_state": "text_state.pt", "text_weight": "text_weight.pt", "text_history": "text_history.pt",
            "text_seconds": "text_seconds.pt", "text_moments": "text_moments.pt",
            "unknown_recipe": "has recipe best, expected local", "p1": "has layers", "q2": "has layers (3,), expected None",
            "fm": "has recipe paper-fm", "ü": "has",
        }.items()
    ),
    ("train @mine --epochs 3 --resume --checkpoint a.pt", 2, "has epochs 2, expected 3"),
    ("train @mine --seed 3 --resume --checkpoint a.pt", 2, "has seed 0, expected 3"),
    ("train @mine --set learning_rate=1e-4 --resume --checkpoint a.pt", 2, "has learning_rate"),
    ("train @mine --precision bfloat16 --resume --checkpoint a.pt", 2, "has precision float32"),
    ("train @mine --dataset folder:large --resume --checkpoint a.pt", 2, "has"),
    ("train --resume --checkpoint a.pt", 2, "has"),
    ("train @mine --threads 2 --resume --checkpoint half.pt", 0, "half.pt goes on with threads 2 in place of 1"),
]  # fmt: skip

PREDICT: list[Case] = [
    ("predict", 2, "required: RUN.pt, IMAGE"),
    ("predict a.pt", 2, "required: IMAGE"),
    ("predict none.pt mine/cat/0.png", 2, "no file none.pt"),
    ("predict folder.pt mine/cat/0.png", 2, "folder.pt"),
    ("predict loop mine/cat/0.png", 2, "no file loop"),
    ("predict text.png mine/cat/0.png", 2, "not a readable checkpoint"),
    ("predict a.pt text.png", 2, "text.png"),
    ("predict a.pt none.png", 2, "expected an image file, found none"),
    ("predict a.pt mine", 2, "found a folder"),
    ("predict a.pt loop", 2, "loop"),
    ("predict a.pt ''", 2, "expected an image file"),
    ("predict a.pt a.pt", 2, "a.pt"),
    ("predict a.pt mine/cat/0.png --json mine/cat/0.png", 2, "are one file"),
    ("predict a.pt mine/cat/0.png --json a.pt", 2, "are one file"),
    ("predict a.pt mine/cat/0.png --json no/such/out.json", 2, "does not exist"),
    ("predict a.pt mine/cat/0.png --seed 3", 2, "unrecognized arguments"),
    ("predict a.pt mine/cat/0.png --threads nan", 2, "got 'nan'"),
    ("predict a.pt mine/cat/0.png", 2, "runs in one process",
     {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}),
    ("predict a.pt mine/cat/0.png", 0, "mine/cat/0.png: "),
    ("predict a.pt 'a b.png' 'ключ 키.png'", 0, "ключ 키.png: "),
    ("predict a.pt latin-*.png", 2, "expected an image file, found none"),
    ("predict ü.pt mine/cat/0.png", 0, "мышь"),
    ("predict fm.pt mine/cat/0.png", 0, "mine/cat/0.png: "),
    ("predict a.pt large/cat/0.png", 0, "1 of 1 pictures made 8x8 grey"),
    *(
        (f"predict {name}.pt mine/cat/0.png", 2, words)
        for name, words in {
            "p1": "holds layers 1, 2 alone", "half": "trained for 1 of 2 epochs", "flipped": "flipped.pt is damaged",
            "short": "not a readable", "old": "not written by this version", "weights": "does not say what model it holds",
            "no_state": "no_state.pt", "no_history": "no_history.pt", "no_model": "no_model.pt",
            "no_settings": "no_settings.pt", "text_about": "text_about.pt", "text_run": "text_run.pt",
            "text_model": "text_model.pt", "text_state": "text_state.pt", "text_weight": "text_weight.pt",
            "text_history": "text_history.pt", "unknown_recipe": "unknown_recipe.pt", "no_seconds": "no_seconds.pt",
            "unknown_setting": "unknown_setting.pt", "bad_setting": "bad_setting.pt", "text_setting": "text_setting.pt",
            "bad_shape": "bad_shape.pt", "text_shape": "text_shape.pt", "bad_classes": "bad_classes.pt",
            "few_classes": "few_classes.pt", "no_steps": "no_steps.pt", "unsigned": "unsigned.pt is damaged",
        }.items()
    ),
]  # fmt: skip

JOIN: list[Case] = [
    ("join", 2, "required: FILE"),
    ("join none.pt", 2, "no file none.pt"),
    ("join p1.pt", 2, "nobody trained layers 3"),
    ("join p1.pt p1.pt p2.pt", 2, "a file is named twice"),
    ("join p1.pt ./p1.pt", 2, "layer 1 is in both"),
    ("join p1.pt q2.pt", 2, "has seed 1, expected 0"),
    ("join p1.pt fm.pt", 2, "fm.pt has"),
    ("join p1.pt ü.pt", 2, "ü.pt has"),
    ("join p1.pt a.pt", 2, "is in both"),
    ("join p1.pt p2.pt --checkpoint p1.pt", 2, "are one file"),
    ("join p1.pt p2.pt --checkpoint a.pt", 2, "a.pt exists"),
    ("join p1.pt p2.pt --json p2.pt", 2, "are one file"),
    ("join p1.pt p2.pt --dataset digits", 2, "other data than digits"),
    ("join p1.pt p2.pt --dataset folder:none", 2, "found no folder"),
    ("join p1.pt p2.pt --dataset folder:large", 2, "other data than folder:large"),
    ("join p1.pt p2.pt --resume", 2, "unrecognized arguments"),
    ("join p1.pt p2.pt --checkpoint no/such/w.pt", 2, "does not exist"),
    ("join p1.pt flipped.pt", 2, "flipped.pt is damaged"),
    ("join flipped.pt", 2, "flipped.pt is damaged"),
    ("join p1.pt half.pt", 2, "half.pt"),
    ("join p1.pt text_about.pt", 2, "text_about.pt"),
    ("join p1.pt text_history.pt", 2, "text_history.pt"),
    ("join no_checksum.pt", 2, "no_checksum.pt does not say its dataset_checksum"),
    ("join no_state.pt", 2, "no_state.pt"),
    ("join no_seconds.pt", 2, "no_seconds.pt"),
    ("join bad_setting.pt", 2, "bad_setting.pt"),
    ("join p1.pt p2.pt --dataset folder:mine", 0, "test accuracy"),
    ("join p2.pt p1.pt --dataset folder:mine --json joined.json --checkpoint whole.pt", 0, "test accuracy"),
]

RECORD: list[Case] = [
    ("record", 2, "required: NAME"),
    ("record ''", 2, "unknown experiment ''"),
    ("record mnist", 2, "unknown experiment 'mnist'"),
    ("record ../mnist_local", 2, "unknown experiment"),
    ("record mnist_local --output none", 2, "does not exist; create it first"),
    ("record mnist_local --output file", 2, "cannot write file/mnist_local.json"),
    ("record mnist_local --output loop", 2, "cannot write loop/mnist_local.json"),
    ("record mnist_local --output /proc", 2, "cannot write /proc/mnist_local.json"),
    ("record mnist_local --output records --json no/such/x", 2, "does not exist"),
    ("record mnist_local --output records --dataset folder:none", 2, "found no folder"),
    ("record mnist_local --output records --dataset ''", 2, "expected a data set"),
    ("record mnist_local --output records --data-root nothing", 2, "download failed", NO_NETWORK),
    ("record mnist_local --output records --dataset folder:one", 2, "one class"),
    ("record mnist_local --output records --precision double", 2, "invalid choice"),
    ("record mnist_layers --output records --dataset digits --precision bfloat16", 2, "computes in float32 alone"),
    ("record sudoku --output records --dataset digits", 2, "makes its own data"),
    ("record sudoku --output records --precision bfloat16", 2, "computes in float32 alone"),
    ("record mnist_local --seed 3", 2, "unrecognized arguments"),  # not --seeds
    ("record mnist_local --output records --seeds 0", 2, "expected an integer >= 1, got '0'"),
    ("record mnist_local --output records --seeds 4", 2, "--seeds: mnist_local has 3, got 4"),
    ("record mnist_local --check --seeds 1", 2, "leave --seeds out"),
    ("record mnist_local --output records", 2, "runs in one process",
     {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}),
    *((f"record mnist_local --dataset digits --output 'records {name}'", 2, "mnist_local@digits.partial")
      for name in ("text", "json", "run", "empty")),
]  # fmt: skip

BENCH: list[Case] = [
    ("bench --suite all", 2, "invalid choice: 'all'"),
    ("bench --suite gpu", 2, "sees no CUDA GPU"),
    ("bench --dataset digits --only nothing", 2, "no part 'nothing'"),
    ("bench --dataset digits --only ''", 2, "no part ''"),
    ("bench --dataset nope", 2, "expected a data set"),
    ("bench --data-root nothing", 2, "download failed", NO_NETWORK),
    ("bench --dataset digits --only memory", 0, "no record written"),
    ("bench --dataset digits --only memory --output none", 0, "no record written"),
    ("bench --data-root 'data with spaces' --only memory --output none", 2, "does not exist; create it first"),
    ("bench --data-root 'data with spaces' --only memory --output file", 2, "cannot write file/bench_cpu.json"),
    ("bench --data-root 'data with spaces' --only memory --output records", 0, "written to records"),
    ("bench --suite parallel --dataset digits --precision bfloat16", 1, "float32 alone"),
    *((f"bench --data-root 'data with spaces' --resume --only memory --output 'bench {name}'", 2, "bench_cpu.json")
      for name in ("words", "list", "empty", "bytes", "rows", "deep")),
]  # fmt: skip

PROCESSES: list[Case] = [
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": "two"}),
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": "0"}),
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": "-1"}),
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": ""}),
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}),
    ("train @digits", 2, "expected torchrun's variables", {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "70000"}),
    ("train @digits", 2, "12 processes are more than the 2 layers",
     {"WORLD_SIZE": "12", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}),
    ("train @mine --layers 1 --checkpoint n.pt", 2, "leave one of them out",
     {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}),
    ("train @mine", 2, "no-such-host.invalid",
     {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "29511"}),
    ("train @mine", 2, "expected the name of a host", {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a..b", "MASTER_PORT": "29511"}),
    ("train @digits", 0, "digits shared", {"WORLD_SIZE": "1", "RANK": "x"}),
]  # fmt: skip

LAB: list[Case] = [
    ("course", 2, "required: out"),
    ("course file", 2, "cannot write to file"),
    ("course file/deeper", 2, "cannot write to file/deeper"),
    ("course /proc/none", 2, "cannot write to /proc/none"),
    ("course loop", 2, "cannot write to loop"),
    ("course ''", 2, "expected the name of a folder"),
    ("course out extra", 2, "unrecognized arguments: extra"),
    ("landing extra", 2, "unrecognized arguments: extra"),
    ("landing --help", 0, "usage"),
    ("conformance", 2, "conformance: "),
    ("conformance --all", 2, "conformance: "),
    ("conformance a b", 2, "conformance: "),
    ("conformance no_such_module", 2, "no_such_module"),
    ("digits_script here.js", 2, "unrecognized arguments: here.js"),
    ("gpu_session", 2, "required: --output"),
    ("gpu_session --output out", 2, "sees no CUDA GPU"),
    ("gpu_session --output file --scratch nothing --toy", 2, "cannot write"),
    ("gpu_session --output nothing --scratch file --toy", 2, "cannot write"),
    ("gpu_session --output /proc/none --scratch nothing --toy", 2, "cannot write"),
    ("gpu_session --output nothing --scratch nothing --toy --only none", 2, "there is no step 'none'"),
    ("gpu_session --output nothing --scratch nothing --toy --minutes nan", 2, "expected minutes above 0"),
    ("gpu_session --output nothing --scratch nothing --toy --minutes -1", 2, "expected minutes above 0"),
    ("gpu_session --output nothing --scratch nothing --toy --minutes many", 2, "--minutes"),
    ("gpu_session --output nothing --scratch nothing --job none --toy", 2, "unknown experiment 'none'"),
    ("gpu_session --output nothing --scratch 'session list' --toy", 2, "session.json"),
    ("gpu_session --output nothing --scratch 'session rows' --toy", 2, "session.json"),
]

PARTS = {
    "arguments": ARGUMENTS, "settings": SETTINGS, "data": DATA, "files": FILES, "resumed": RESUMED, "predict": PREDICT,
    "join": JOIN, "record": RECORD, "bench": BENCH, "processes": PROCESSES, "lab": LAB,
}  # fmt: skip
ROWS = {part: [Row(*case) for case in cases] for part, cases in PARTS.items()}

# As a user who may write nothing, neither here nor in the book's checkout nor at home, and for whom secret.* is not to be read.
NO_HOME = {"HOME": "/proc/none"}
READ_ONLY = [Row(*case, NO_HOME | NO_NETWORK) for case in [
    ("train @digits", 0, "test accuracy"),
    ("train @digits --json out.json", 2, "cannot write out.json: Permission denied"),
    ("train @digits --checkpoint n.pt", 2, "cannot write n.pt: Permission denied"),
    ("train @mine --checkpoint a.pt --resume", 2, "cannot write a.pt: Permission denied"),
    ("train @mine --checkpoint secret.pt --resume", 2, "cannot write secret.pt: Permission denied"),
    ("train --dataset mnist --data-root nothing", 2, "Permission denied"),
    ("train --dataset 'folder:mine secret'", 2, "secret"),
    ("predict a.pt mine/cat/0.png", 0, "mine/cat/0.png: "),
    ("predict a.pt mine/cat/0.png --json out.json", 2, "cannot write out.json: Permission denied"),
    ("predict secret.pt mine/cat/0.png", 2, "cannot read secret.pt: Permission denied"),
    ("predict a.pt secret.png", 2, "cannot read secret.png: Permission denied"),
    ("join p1.pt p2.pt", 0, "test accuracy"),
    ("join p1.pt p2.pt --checkpoint whole.pt", 2, "cannot write whole.pt: Permission denied"),
    ("join p1.pt secret.pt", 2, "cannot read secret.pt: Permission denied"),
    ("record mnist_local", 2, "Permission denied"),
    ("record mnist_local --output records", 2, "cannot write records/mnist_local.json: Permission denied"),
    ("bench --data-root 'data with spaces' --only memory --output records", 2, "Permission denied"),
    ("bench --data-root 'data with spaces' --only memory --output 'bench secret' --resume", 2, "Permission denied"),
    ("course out", 2, "cannot write to out: Permission denied"),
    ("landing", 2, "Permission denied"),
    ("digits_script", 2, "Permission denied"),
    ("gpu_session --output out --scratch nothing --toy", 2, "Permission denied"),
    ("gpu_session --output nothing --scratch nothing --toy", 2, "Permission denied"),
]]  # fmt: skip


# --- All of it --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing_to_write(folder: Path) -> Iterator[None]:
    """As a plain user, in a folder of which nothing may be written, and of which some may not be read. For root alone."""
    for typed in ("train @digits", "train --dataset mnist --data-root nothing", "course warm"):
        outcome(Row(typed, 0, "", NO_NETWORK))  # loads all that is loaded late, which may lie where only root can read
    shutil.rmtree("warm")
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")] if path.exists()}
    for path, mode in modes.items():
        path.chmod(0 if "secret" in path.name else 0o555 if path.is_dir() else 0o444)
    above = {path: path.stat().st_mode for path in folder.parents if path.stat().st_uid == 0 and path != Path("/")}
    for path, mode in above.items():
        path.chmod(mode | 0o111)  # pytest's own folders are closed to others
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in (modes | above).items():
            path.chmod(mode & 0o7777)


def run_all(rows: list[Row], folder: Path, tell: Callable[[Row, Outcome, str], None]) -> None:
    """Run rows in a place that ``write_place`` made, which is put back as it was after each; ``tell`` hears of every one."""
    kept = contents(folder)
    with current_folder(folder):
        for row in rows:
            told = outcome(row)
            after = contents(folder)
            tell(row, told, fault(row, told, after != kept))
            for path in after.keys() - kept.keys():
                path.unlink()
            for path, content in kept.items():
                if after.get(path) != content:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)


if __name__ == "__main__":
    counts: dict[str, int] = {}

    def tell(row: Row, told: Outcome, wrong: str) -> None:
        counts[wrong or "as it must be"] = counts.get(wrong or "as it must be", 0) + 1
        if wrong:
            said = (told.err or told.out).strip().splitlines()
            print(f"{wrong}: {row.typed}  {row.given or ''}\n    expected {row.words!r}\n    {said[-1:]}", flush=True)

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        write_place(Path(place))
        print(f"place made in {time.monotonic() - start:.1f} s")
        wanted = [row for part, rows in ROWS.items() if not sys.argv[1:] or part in sys.argv[1:] for row in rows]
        run_all(wanted, Path(place), tell)
    print(f"{sum(counts.values())} rows in {time.monotonic() - start:.0f} s: {counts}")
    sys.exit(set(counts) != {"as it must be"})
