"""The command line: one line for what it did, one clear line for what it could not do, and every file whole or untouched."""

import fcntl
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.data import load_dataset
from noprop_helpers.recipes import EMBEDDINGS
from noprop_helpers.runs import load_trained, measured

SMALL = ["--epochs", "2", "--set", "num_steps=3", "--set", "hidden_dim=16"]
PAPER = ["--preset", "paper", "--epochs", "1", "--set", "num_steps=2", "--precision", "float32"]


@pytest.fixture
def shell(monkeypatch, tmp_path, few_digits):
    """An empty current folder, and 150 digits for digits; -> the command as a user types it, in this process."""
    monkeypatch.chdir(tmp_path)
    load = cli.load_dataset
    monkeypatch.setattr(cli, "load_dataset", lambda name, *a, **k: few_digits if name == "digits" else load(name, *a, **k))
    return lambda *arguments: cli.main(list(arguments))


@pytest.fixture
def refused(shell, capsys):
    """The one line with which a command ends that cannot be done; it writes nothing else, and changes no file."""

    def refuse(*arguments):
        before = contents()
        capsys.readouterr()
        try:
            code = shell(*arguments)
        except SystemExit as end:  # argparse
            code = end.code
        out, complaint = capsys.readouterr()
        assert code == 2 and out == "" and len(complaint.splitlines()) == 1, (code, out, complaint)
        assert complaint.startswith("noprop_helpers: ")
        assert contents() == before
        return complaint

    return refuse


def run(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=None, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "noprop_helpers", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=stderr, cwd=cwd, text=True, env=os.environ | environment)


def contents():
    """The current folder's files by their checksums: what differs is shown in a line, however long the files are."""
    assert Path().resolve() != Path(__file__).parent.parent, "expected a folder of the test's own: others write into the checkout"
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


def names():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# --- What a run says ---


@pytest.mark.slow
def test_train_prints_one_line_and_writes_json(tmp_path):
    done = run("train", *SMALL, "--seed", "3", "--device", "cpu", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "not layer-local" in done.stdout
    assert done.stderr == ""  # no progress bar where nobody watches
    told = json.loads((tmp_path / "out.json").read_text())
    assert {"test_accuracy", "train_seconds", "epochs", "seed", "device", "precision", "versions"} <= told.keys()
    assert (told["epochs"], told["seed"], told["recipe"], told["layer_local"]) == (2, 3, "shared", False)
    assert told["run"]["settings"]["learning_rate"] == 8e-3 and told["run"]["model"]["num_steps"] == 3
    assert f"digits shared: test accuracy {100 * told['test_accuracy']:.2f} %" in done.stdout
    assert "in float32, seed 3" in done.stdout and told["precision"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar():
    master, slave = os.openpty()
    # A new pseudo-terminal has no width, and a bar of width 0 does not show.
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "noprop_helpers", "train", "--epochs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)  # the child holds its own copy; when it ends, reading here ends
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:  # how Linux reports that a terminal's other end is gone
        pass
    os.close(master)
    assert process.wait() == 0 and b"epoch 1/2" in shown and b"epoch 2/2" in shown
    assert len(process.stdout.read().splitlines()) == 1


def test_same_seed_same_result_other_seed_another(shell):
    results = []
    for seed in (["--seed", "1"], ["--set", "seed=1"], ["--seed", "2"]):
        assert shell("train", "--preset", "local", *SMALL, "--set", "num_centres=20", *seed, "--json", "o") == 0
        told = json.loads(Path("o").read_text())
        assert told["layer_local"] is True
        results.append((told["test_accuracy"], told["summed_loss_by_epoch"]))
    assert results[0] == results[1] != results[2]


@pytest.mark.slow
def test_default_presets_read_digits(capsys):
    """All the bundled digits: enough to see that each preset learns, on any machine."""
    assert cli.main(["train", "--epochs", "5"]) == 0
    assert cli.main(["train", "--epochs", "10", "--preset", "local"]) == 0
    shared, local = (float(line.split("test accuracy ")[1].split(" %")[0]) for line in capsys.readouterr().out.splitlines())
    assert shared > 95 and local > 95


@pytest.mark.parametrize("variant, said", [
    ("dt", "; layer-local"), ("ct", "one block for all times"), ("fm", "one block for all times"),
    ("backprop", "not layer-local"), ("adjoint", "not layer-local"),
])  # fmt: skip
def test_variants_train_with_the_papers_settings(variant, said, shell, capsys):
    if variant == "adjoint":
        pytest.importorskip("torchdiffeq")
    assert shell("train", *PAPER, "--variant", variant, "--json", "out.json") == 0
    assert f"digits paper-{variant}: test accuracy" in (line := capsys.readouterr().out) and said in line
    told = json.loads(Path("out.json").read_text())
    assert told["recipe"] == f"paper-{variant}" and told["run"]["model"]["embedding"] == "one_hot"
    assert told["layer_local"] == (variant in ("dt", "ct", "fm")) and told["run"]["settings"]["weight_decay"] == 1e-3


@pytest.mark.parametrize("options, recipe", [
    ([], "shared"), (["--preset", "local"], "local"), (["--preset", "published"], "published"),
    (["--preset", "residual"], "residual"), (["--preset", "paper"], "paper-dt"), (["--variant", "ct"], "paper-ct"),
    (["--embedding", "learned"], "paper-dt"), (["--preset", "paper", "--variant", "adjoint"], "paper-adjoint"),
    *((["--preset", name, "--embedding", "one_hot", "--variant", "dt"], name) for name in ("shared", "local", "residual")),
])  # fmt: skip
def test_preset_variant_and_embedding_name_a_recipe(options, recipe, few_digits):
    parsed = cli._parser().parse_args(["train", *options])
    planned = cli.plan(few_digits, cli._recipe(parsed), cli._changes(parsed))
    assert planned.recipe == recipe
    if "--embedding" in options and recipe.startswith("paper"):
        assert planned.model.embedding in EMBEDDINGS[1:]


# --- The same numbers again ---


@pytest.mark.whole
@pytest.mark.parametrize("options", [
    ["--preset", "shared", *SMALL], ["--preset", "local", *SMALL, "--set", "num_centres=20"], PAPER,
    [*PAPER, "--variant", "ct"], [*PAPER, "--variant", "fm", "--embedding", "learned"],
    [*PAPER, "--variant", "backprop", "--embedding", "prototype"],
], ids=" ".join)  # fmt: skip
def test_a_finished_run_resumed_says_what_it_said(options, shell, capsys, few_digits):
    """Its accuracy to the last digit, in the line and in the JSON; so does its file, loaded and measured."""
    assert shell("train", *options, "--checkpoint", "a.pt", "--json", "1.json") == 0
    assert shell("train", *options, "--checkpoint", "a.pt", "--json", "2.json", "--resume") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    told = [json.loads(Path(name).read_text()) for name in ("1.json", "2.json")]
    for one in told:
        del one["peak_memory_mib"]
    assert told[0] == told[1]
    loaded = load_trained("a.pt")
    results, _ = measured(loaded.model, loaded.run, few_digits)
    assert all(told[0][name] == value for name, value in results.items())
    assert shell("join", "a.pt") == 0  # a whole model, measured again
    assert capsys.readouterr().out.split(" after ")[0] == lines[0].split(" after ")[0]


def test_an_interrupted_command_resumes_to_the_same_model(shell, monkeypatch, capsys):
    """train, interrupted after its first epoch, then --resume: the weights of an uninterrupted run."""
    command = ["train", *SMALL, "--checkpoint"]
    assert shell(*command, "straight.pt") == 0
    save, saved = checkpoints.save, []

    def save_and_die(path, content):
        save(path, content)
        saved.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(checkpoints, "save", save_and_die)
        assert shell(*command, "cut.pt") == 130 and len(saved) == 1
    assert capsys.readouterr().err == "noprop_helpers: interrupted\n"
    assert shell(*command, "cut.pt", "--resume") == 0
    one, two = (checkpoints.load(f"{name}.pt")["state"] for name in ("straight", "cut"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_code_130(tmp_path):
    """As a terminal sends it, in the middle of training; what was trained is kept."""
    command = [sys.executable, "-m", "noprop_helpers", "train", "--epochs", "5000", "--checkpoint", "a.pt"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, complaint = process.communicate(timeout=60)
    assert (process.returncode, out, complaint) == (130, "", "noprop_helpers: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"] and len(checkpoints.load(tmp_path / "a.pt")["history"]) >= 1


# --- Settings from the shell ---


def test_five_layers_from_a_shell(shell):
    """Any setting of training and of the model, and the file knows them."""
    changes = {
        "num_steps": 5, "hidden_dim": 24, "learning_rate": 2e-3, "batch_size": 50, "one_cycle": False, "optimizer": "adamw",
        "weight_decay": 0.01, "feature_dropout": 0.1, "order": "interleaved", "precision": "bfloat16", "seed": 9,
    }  # fmt: skip
    sets = [word for name, value in changes.items() for word in ("--set", f"{name}={str(value).lower()}")]
    assert shell("train", "--epochs", "1", *sets, "--json", "out.json", "--checkpoint", "a.pt") == 0
    told, loaded = json.loads(Path("out.json").read_text()), load_trained("a.pt")
    for said in (told["run"], loaded.about["run"]):
        both = said["model"] | said["settings"]
        assert {name: both[name] for name in changes} == changes
    assert loaded.model.num_layers == 5 and told["precision"] == "bfloat16" and told["seed"] == 9


def test_a_model_of_the_papers_comes_back_with_its_steps(shell):
    assert shell("train", "--variant", "ct", "--epochs", "1", "--set", "num_steps=20", "--checkpoint", "a.pt") == 0
    assert load_trained("a.pt").model.num_steps == 20


@pytest.mark.parametrize("options, message", [
    (["--set", "eta=1"],
     "shared has no setting 'eta'; choose one of augment, batch_size, cuda_graphs, epochs, feature_dropout, hidden_dim, layers, "
     "learning_rate, margin, num_steps, one_cycle, optimizer, order, precision, seed, upright, weight_decay"),
    (["--variant", "fm", "--set", "depth=3"], "paper-fm has no setting 'depth'; choose one of augment"),
    (["--set", "num_steps"], "--set: expected NAME=VALUE, as learning_rate=3e-3, got 'num_steps'"),
    (["--set", "=3"], "has no setting ''"),
    (["--set", "num_steps=many"], "num_steps: expected a value of type int, got 'many'"),
    (["--set", "num_steps=2.5"], "num_steps: expected a value of type int, got '2.5'"),
    (["--set", "num_steps="], "num_steps: expected a value of type int, got ''"),
    (["--set", "num_steps=0"], "num_steps must be at least 1, got 0"),
    (["--set", "learning_rate=nan"], "finite learning_rate above 0"),
    (["--set", "one_cycle=yes"], "one_cycle: expected true or false, got 'yes'"),
    (["--set", "order=random"], "order must be one of together, layer, interleaved, solved, got 'random'"),
    (["--set", "batch_size=0"], "batch_size must be at least 1"),
    (["--set", "augment=true"], "augment works batch by batch"),
    (["--preset", "local", "--set", "layers=x", "--checkpoint", "a.pt"], "expected layers such as 1-5 or 1,3, got 'x'"),
    (["--preset", "local", "--set", "patch_size=9"], "patches of 9 x 9 pixels do not fit"),
    (["--preset", "paper", "--set", "embedding=one-hot"], "embedding must be one of one_hot, learned, prototype"),
    (["--preset", "paper", "--set", "order=together"], "only the small layers of a NoPropDT can be trained together"),
    (["--preset", "paper", "--set", "learning_rate=1e38"], "training diverged: the loss of layer 1 is not finite at step 2 of epoch 1; try a smaller learning_rate"),
    # Said twice, and not the same: which one is meant?
    (["--preset", "local", "--layers", "1-3", "--set", "layers=4-5", "--checkpoint", "a.pt"],
     "layers is given twice, as 1-3 and as 4-5"),
    (["--seed", "3", "--set", "seed=4"], "seed is given twice, as 3 and as 4"),
    (["--epochs", "3", "--set", "epochs=4"], "epochs is given twice, as 3 and as 4"),
    (["--precision", "float32", "--set", "precision=bfloat16"], "precision is given twice"),
    (["--preset", "paper", "--embedding", "learned", "--set", "embedding=one_hot"], "embedding is given twice"),
    (["--set", "num_steps=3", "--set", "num_steps=4"], "num_steps is given twice, as 3 and as 4"),
])  # fmt: skip
def test_settings_that_cannot_be_are_one_clear_line(options, message, refused):
    short = [] if any("epochs" in option for option in options) else ["--epochs", "1"]
    assert message in refused("train", *short, *options)


def test_the_same_thing_said_twice_is_no_conflict(shell):
    assert shell("train", *SMALL, "--set", "epochs=2", "--set", "num_steps=3", "--seed", "4", "--set", "seed=4") == 0


# --- Bad arguments, bad data ---


@pytest.mark.parametrize("arguments, message", [
    (["train", "--dataset", "nope"], "nope"),
    (["train", "--dataset", "folder:no/such/folder"], "no/such/folder"),
    (["train", "--epochs", "0"], "expected an integer >= 1, got '0'"),
    (["train", "--epochs", "2.5"], "got '2.5'"),
    (["train", "--seed", "-1"], "expected an integer >= 0, got '-1'"),
    (["train", "--seed", str(2**64)], "expected an integer"),
    (["train", "--threads", "0"], "expected an integer >= 1, got '0'"),
    (["train", "--precision", "half"], "invalid choice: 'half'"),
    (["train", "--preset", "best"], "invalid choice: 'best'"),
    (["train", "--preset", "paper-dt"], "invalid choice: 'paper-dt'"),
    (["train", "--layers", "3-1", "--preset", "local"], "expected layers such as 1-5 or 1,3, got '3-1'"),
    (["train", "--json", "no/such/folder/out.json"], "no/such/folder does not exist"),
    (["train", "--json", "."], "it is a folder"),
    (["train", "--json", ""], "expected the name of a file to write, got an empty one"),
    (["train", "--checkpoint", ""], "expected the name of a file to write, got an empty one"),
    (["train", "--json", "x" * 300], "File name too long"),
    (["train", "--variant", "vae"], "invalid choice: 'vae'"),
    (["train", "--variant", "ct", "--preset", "local"], "take the preset paper"),
    (["train", "--preset", "shared", "--embedding", "learned"], "take the preset paper"),
    (["train", "--resume"], "--resume needs --checkpoint FILE"),
    (["train", "--resume", "--checkpoint", "none.pt"], "no file none.pt"),
    (["train", "--checkpoint", "no/such/folder/m.pt"], "no/such/folder does not exist"),
    (["join"], "required: FILE"),
    (["join", "none.pt"], "no file none.pt"),
    (["record", "nope"], "unknown experiment 'nope'; choose one of mnist_shared"),
    (["record", "mnist_shared", "--output", "no/such/folder"], "no/such/folder does not exist"),
    (["record", "mnist_shared", "--json", ""], "got an empty one"),
    (["bench", "--suite", "all"], "invalid choice: 'all'"),
    (["train", "--no-such-option"], "unrecognized arguments"),
    ([], "required"),
], ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")  # fmt: skip
def test_bad_arguments_get_exit_code_2_and_a_reason(arguments, message, refused):
    assert message in refused(*arguments)
    assert names() == []


@pytest.mark.slow
def test_the_exit_code_reaches_the_shell(tmp_path):
    done = run("train", "--dataset", "nope", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu(refused):
    assert "sees no CUDA GPU" in refused("train", "--device", "cuda")


@pytest.mark.slow
def test_missing_data_is_one_clear_line(tmp_path):
    # A proxy that nobody serves: the download fails at once, with or without a network.
    dead = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = run("train", "--dataset", "mnist", "--data-root", str(tmp_path / "data"), **dead, NO_PROXY="", no_proxy="")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train-images-idx3-ubyte" in done.stderr and str(tmp_path / "data") in done.stderr
    assert list(tmp_path.iterdir()) == []


def write_images(folder, size, classes=2, number=6):
    """A data set of grey noise: folder/train/CLASS/*.png, folder/test/CLASS/*.png."""
    for split in ("train", "test"):
        for k in range(classes):
            path = Path(folder) / split / f"class{k}"
            path.mkdir(parents=True)
            for i in range(number):
                noise = random.Random(f"{split} {k} {i}").randbytes(size[0] * size[1])
                Image.frombytes("L", size, noise).save(path / f"{i}.png")


def test_images_that_are_too_small_are_one_clear_line(refused, shell):
    write_images("tiny", (3, 3))
    write_images("flat", (30, 3))
    for folder in ("tiny", "flat"):
        for options in (["--preset", "shared"], ["--preset", "published"], ["--preset", "paper"], ["--variant", "ct"],
                        ["--variant", "fm", "--embedding", "prototype"], ["--variant", "backprop"]):  # fmt: skip
            complaint = refused("train", "--dataset", f"folder:{folder}", "--epochs", "1", *options)
            assert "are too small for this recipe: it needs sides of 4 pixels" in complaint
    assert "it needs sides of 5 pixels" in refused("train", "--dataset", "folder:flat", "--preset", "residual")
    assert shell("train", "--dataset", "folder:tiny", "--preset", "local", "--epochs", "1", "--set", "num_centres=5") == 0
    write_images("single", (2, 2))
    assert "patches of 3 x 3 pixels do not fit into images [1, 2, 2]" in refused(
        "train", "--dataset", "folder:single", "--preset", "local"
    )


def test_one_class_is_one_clear_line(refused):
    write_images("one", (8, 8), classes=1)
    for options in (["--preset", "shared"], ["--preset", "local"], ["--preset", "paper", "--embedding", "learned"]):
        complaint = refused("train", "--dataset", "folder:one", *options)
        assert "folder:one has one class, 'class0': there is nothing to tell apart" in complaint


# --- Images of one's own ---


def write_classes(folder, number=10, size=(8, 8), names=("cat", "dog", "owl")):
    """FOLDER/CLASS/*.png of grey noise, the classes brighter one than the other, the last image of each of another size."""
    for k, name in enumerate(names):
        (Path(folder) / name).mkdir(parents=True)
        for i in range(number):
            w, h = size if i < number - 1 else (20, 12)
            pixels = bytes(80 * k + value // 4 for value in os.urandom(w * h))
            Image.frombytes("L", (w, h), pixels).save(Path(folder) / name / f"{i}.png")


OWN = ["train", "--dataset", "folder:mine", "--preset", "local", *SMALL, "--set", "num_centres=20"]


def test_a_folder_per_class_is_trained_on_and_the_report_says_what_was_done(shell, capsys):
    write_classes("mine")
    Path("mine/cat/notes.txt").write_text("x")
    assert shell(*OWN, "--json", "out.json", "--checkpoint", "a.pt") == 0
    out, said = capsys.readouterr()
    assert len(out.splitlines()) == 1 and out.startswith("folder:mine local: test accuracy")
    assert said.splitlines() == [
        "noprop_helpers: folder:mine: split by file name, 20 % of every class to test on; 3 resized to 8x8, the most common size",
        "noprop_helpers: folder:mine: 1 left out that are no .png, .jpg, .jpeg",
    ]
    told = json.loads(Path("out.json").read_text())
    assert (told["num_train"], told["num_test"]) == (24, 6) and told["accuracy_by_class"].keys() == {"cat", "dog", "owl"}
    assert sum(told["accuracy_by_class"].values()) / 3 == pytest.approx(told["test_accuracy"])
    assert told["preparation"] == {
        "size": [8, 8], "asked": False, "resized": 3, "recoloured": 0, "test_share": 0.2, "split_seed": 0, "left_out": 1,
        "in_both": 0, "example": None,
    }  # fmt: skip
    about = load_trained("a.pt").about
    assert about["preparation"].endswith("3 resized to 8x8, the most common size") and about["class_names"] == ["cat", "dog", "owl"]
    assert shell(*OWN, "--checkpoint", "a.pt", "--resume") == 0


def test_what_was_done_is_not_said_of_a_run_that_cannot_be(refused):
    write_classes("mine")
    assert "has no setting 'depth'" in refused(*OWN, "--set", "depth=3")
    assert "--layers needs --checkpoint" in refused(*OWN, "--layers", "1")


def test_digits_need_no_preparation(shell, capsys):
    assert shell("train", *SMALL, "--json", "out.json") == 0
    told = json.loads(Path("out.json").read_text())
    assert told["preparation"] is None and len(told["accuracy_by_class"]) == 10 and told["num_test"] == 20
    assert capsys.readouterr().err == ""


def test_copies_in_both_splits_are_said(shell, capsys):
    write_images("mine", (8, 8))
    shutil.copy("mine/train/class0/3.png", "mine/test/class1/3.png")
    assert shell(*OWN) == 0
    assert capsys.readouterr().err == (
        "noprop_helpers: folder:mine: 1 test image is also in the training split, pixel for pixel (as test/class1/3.png): "
        "the accuracy flatters\n"
    )


@pytest.mark.parametrize("text, size", [("10", (10, 10)), ("12x9", (12, 9))])
def test_images_become_the_size_that_was_asked_for(text, size, shell):
    write_classes("mine")
    assert shell(*OWN, "--image-size", text, "--json", "out.json", "--checkpoint", "a.pt") == 0
    assert load_trained("a.pt").model.image_shape == (1, *size[::-1])
    told = json.loads(Path("out.json").read_text())["preparation"]
    assert (told["size"], told["asked"], told["resized"]) == ([*size], True, 30)


@pytest.mark.parametrize("text", ["0", "-3", "4x", "x4", "3x4x5", "12.5", "big", "", "10000", "²"])
def test_a_size_that_is_none_is_refused(text, refused):
    complaint = refused("train", f"--image-size={text}")
    assert f"expected a size in pixels such as 32 or 40x30, got {text!r}" in complaint


@pytest.mark.slow
def test_digits_have_their_own_size(refused, monkeypatch):
    monkeypatch.setattr(cli, "load_dataset", load_dataset)  # the fixture's few digits know nothing of sizes
    assert "digits comes in its own" in refused("train", "--image-size", "16")


def test_parts_trained_on_images_of_a_size_that_was_asked_for_are_joined(shell, capsys):
    """The join reads the images as the parts did, without being told."""
    write_classes("mine")
    for layers, file in (("1-2", "a.pt"), ("3", "b.pt")):
        assert shell(*OWN, "--image-size", "12x9", "--layers", layers, "--checkpoint", file) == 0
    assert shell("join", "a.pt", "b.pt", "--checkpoint", "whole.pt") == 0
    assert load_trained("whole.pt").model.image_shape == (1, 9, 12)
    assert shell("predict", "whole.pt", "mine/cat/0.png") == 0


# --- predict ---


@pytest.fixture
def trained(shell):
    """a.pt, a model of the three classes of a folder, 8 x 8 and grey."""
    write_classes("mine", number=30)
    assert shell("train", "--dataset", "folder:mine", "--epochs", "10", *SMALL[2:], "--checkpoint", "a.pt") == 0
    return load_trained("a.pt")


def test_predict_says_a_line_a_picture(trained, shell, capsys):
    capsys.readouterr()
    pictures = ["mine/cat/1.png", "mine/owl/2.png", "mine/dog/3.png"]
    assert shell("predict", "a.pt", *pictures, "--json", "out.json") == 0
    out, said = capsys.readouterr()
    assert said == "" and len(out.splitlines()) == 3
    told = json.loads(Path("out.json").read_text())
    assert (told["model"], told["recipe"], told["dataset"], told["image_shape"]) == ("a.pt", "shared", "folder:mine", [1, 8, 8])
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8) for path in pictures])
    images = images.view(3, 1, 8, 8) / 255
    expected = trained.model.probabilities(images, generator, told["walks"])
    for line, path, one, p in zip(out.splitlines(), pictures, told["pictures"], expected, strict=True):
        assert one["file"] == path and list(one["probabilities"]) == ["cat", "dog", "owl"]
        assert list(one["probabilities"].values()) == pytest.approx(p.tolist())
        assert one["class"] == Path(path).parent.name and one["probability"] == max(one["probabilities"].values())
        order = sorted(one["probabilities"].items(), key=lambda item: -item[1])
        first, *others = (f"{name} {100 * value:.1f} %" for name, value in order)
        assert line == f"{path}: {first}, then {', '.join(others)}"
    assert shell("predict", "a.pt", *pictures) == 0 and capsys.readouterr().out == out  # the same noise again


def test_predict_names_the_three_likeliest_classes(shell, capsys, few_digits):
    assert shell("train", *SMALL, "--checkpoint", "a.pt") == 0
    Image.fromarray((few_digits.test_images[0, 0] * 255).byte().numpy()).save("1.png")
    capsys.readouterr()
    assert shell("predict", "a.pt", "1.png") == 0
    assert re.fullmatch(r"1\.png: \d [\d.]+ %, then \d [\d.]+ %, \d [\d.]+ %\n", capsys.readouterr().out)


def test_pictures_are_made_as_the_training_images_were(trained, shell, capsys):
    Image.open("mine/owl/2.png").convert("RGB").resize((40, 40), Image.Resampling.NEAREST).save("large.png")
    capsys.readouterr()
    assert shell("predict", "a.pt", "large.png", "mine/owl/2.png") == 0
    out, said = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == ["owl", "owl"]
    assert said == "noprop_helpers: 1 of 2 pictures made 8x8 grey, as the training images were\n"


@pytest.mark.whole
def test_a_prediction_that_cannot_be_is_one_clear_line(trained, refused, shell):
    Path("text.png").write_text("hello")
    picture = "mine/cat/1.png"
    for arguments, message in [
        (["a.pt"], "required: IMAGE"),
        (["none.pt", picture], "no file none.pt"),
        (["text.png", picture], "text.png is not a readable checkpoint"),
        (["a.pt", picture, "none.png"], "none.png: expected an image file, found none"),
        (["a.pt", "mine"], "mine: expected an image file, found a folder"),
        (["a.pt", "text.png"], "text.png: expected a whole image, found 5 bytes that do not decode"),
        (["a.pt", picture, "--json", "no/such/out.json"], "no/such does not exist"),
        (["a.pt", picture, "--json", picture], "are one file"),
        (["a.pt", picture, "--json", "a.pt"], "are one file"),
        (["a.pt", picture, "--data-root", "."], "unrecognized arguments"),
    ]:
        assert message in refused("predict", *arguments)
    trained.model.save("weights.pt")
    assert "weights.pt does not say what model it holds" in refused("predict", "weights.pt", picture)
    content = checkpoints.load("a.pt")
    checkpoints.save("half.pt", content | {"history": content["history"][:4]})
    assert "half.pt is trained for 4 of 10 epochs: go on with train --resume" in refused("predict", "half.pt", picture)
    assert shell(*OWN, "--layers", "1-2", "--checkpoint", "part.pt") == 0
    assert "part.pt holds layers 1, 2 alone; join it with the others' files" in refused("predict", "part.pt", picture)


def test_predict_runs_in_one_process(trained, refused, monkeypatch):
    monkeypatch.setattr(cli.parallel, "this_process", lambda: (0, 2))
    assert "predict runs in one process" in refused("predict", "a.pt", "mine/cat/1.png")


BUG = """
import sys, numpy, torch
from noprop_helpers.__main__ import main
from noprop_helpers.recipes import Shared

def prepare(self, model, images, labels, generator):
    {line}

Shared.prepare = prepare
sys.exit(main(["train", "--epochs", "1"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("line, error", [
    ("numpy.zeros(3).reshape(2, 2)", "ValueError: cannot reshape array"),
    ("torch.nn.BatchNorm1d(2)(torch.zeros(1, 2))", "ValueError: Expected more than 1 value per channel"),
])  # fmt: skip
def test_a_bug_shows_its_traceback(line, error):
    """A ValueError of torch or numpy is no fault of the arguments, and must not be told as one."""
    done = subprocess.run([sys.executable, "-c", BUG.format(line=line)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback (most recent call last)" in done.stderr and "in prepare" in done.stderr and error in done.stderr
    assert "noprop_helpers: " not in done.stderr


def test_errors_of_ours_are_values_that_do_not_fit():
    assert issubclass(cli.NoPropError, ValueError) and issubclass(CheckpointError, ValueError)
    assert not issubclass(CheckpointError, cli.NoPropError)  # a leaf knows nothing above it


# --- Files ---


@pytest.mark.parametrize("json_file, checkpoint", [
    ("x", "x"), ("./x", "x"), ("x", "link"), ("link", "x"), ("dir/../x", "x"), ("link", "link"),
])  # fmt: skip
def test_one_file_for_two_results_is_refused(json_file, checkpoint, refused):
    Path("dir").mkdir()
    Path("link").symlink_to("x")  # x is not there yet: it would be made through the link
    assert "are one file, and one would replace the other" in refused(
        "train", *SMALL, "--json", json_file, "--checkpoint", checkpoint
    )
    assert not Path("x").exists() and Path("link").is_symlink()


def test_a_checkpoint_is_not_overwritten_unasked(refused, shell):
    assert shell("train", *SMALL, "--checkpoint", "a.pt") == 0
    refused_again = functools.partial(refused, "train", *SMALL, "--checkpoint")
    assert "a.pt exists: go on from it with --resume, or name another file" in refused_again("a.pt")
    Path("link.pt").symlink_to("a.pt")
    assert "link.pt exists" in refused_again("link.pt")
    assert "one file" in refused_again("a.pt", "--resume", "--json", "a.pt")
    assert "one file" in refused_again("a.pt", "--resume", "--json", "link.pt")


@pytest.mark.whole
def test_resuming_another_run_names_the_first_difference(refused, shell, few_digits, monkeypatch):
    assert shell("train", *SMALL, "--checkpoint", "a.pt") == 0
    for options, message in [
        (["--epochs", "3", *SMALL[2:]], "a.pt has epochs 2, expected 3"),
        ([*SMALL, "--seed", "1"], "a.pt has seed 0, expected 1"),
        ([*SMALL, "--set", "learning_rate=1e-3"], "a.pt has learning_rate 0.008, expected 0.001"),
        ([*SMALL[:4], "--set", "hidden_dim=17"], "a.pt has hidden_dim 16, expected 17"),
        ([*SMALL, "--preset", "local"], "a.pt has recipe shared, expected local"),
        ([*SMALL, "--precision", "bfloat16"], "a.pt has precision float32, expected bfloat16"),
    ]:
        assert message in refused("train", *options, "--checkpoint", "a.pt", "--resume")
    other = few_digits._replace(train_images=few_digits.train_images.flip(2))  # as many images, of the same shape
    monkeypatch.setattr(cli, "load_dataset", lambda *a, **k: other)
    assert "a.pt has dataset_checksum sha256:" in refused("train", *SMALL, "--checkpoint", "a.pt", "--resume")


def test_files_that_are_no_checkpoints_are_not_resumed(refused, shell):
    Path("text.pt").write_text("hello")
    Path("empty.pt").touch()
    for name in ("text.pt", "empty.pt"):
        assert "is not a readable checkpoint" in refused("train", *SMALL, "--checkpoint", name, "--resume")
    assert shell("train", *SMALL, "--checkpoint", "a.pt") == 0
    assert shell("join", "a.pt", "--checkpoint", "whole.pt") == 0
    complaint = refused("train", *SMALL, "--checkpoint", "whole.pt", "--resume")
    assert "whole.pt holds weights but no training to resume" in complaint


def test_a_device_stays_a_device_and_a_link_a_link(shell, device):
    Path("folder").mkdir()
    Path("link.json").symlink_to("folder/real.json")
    assert shell("train", *SMALL, "--json", "link.json") == 0
    null = device("null")
    assert shell("train", *SMALL, "--json", null, "--checkpoint", null) == 0
    assert stat.S_ISCHR(os.stat(null).st_mode)
    assert Path("link.json").is_symlink() and json.loads(Path("folder/real.json").read_text())["epochs"] == 2
    assert names() == ["folder/real.json", "link.json"]


@pytest.mark.slow
def test_results_can_be_piped(tmp_path):
    """--json /dev/stdout, for a program that reads on."""
    done = run("train", *SMALL, "--json", "/dev/stdout", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, line = done.stdout.rsplit("}\n", 1)
    assert json.loads(text + "}")["epochs"] == 2 and line.startswith("digits shared: test accuracy")


@pytest.mark.parametrize("option", ["--json", "--checkpoint"])
def test_a_full_disk_is_one_clear_line(option, refused, device):
    full = device("full")
    assert f"cannot write {full}: No space left on device" in refused("train", *SMALL, option, full)


def test_a_disk_that_fills_up_is_one_clear_line(shell, refused, small_disk, monkeypatch):
    """For each kind of file that a command writes; nothing half is left."""
    assert "cannot write disk/a.pt: No space left on device" in refused("train", *SMALL, "--checkpoint", "disk/a.pt")
    assert names() == []
    assert shell("train", *SMALL, "--json", "disk/a.json") == 0
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    assert "cannot write disk/b.json: No space left" in refused("train", *SMALL, "--json", "disk/b.json")
    assert "cannot write disk/a.json: No space left" in refused("train", *SMALL, "--json", "disk/a.json")
    monkeypatch.setattr("noprop_helpers.lab.recording.load_dataset", cli.load_dataset)
    complaint = refused("record", "mnist_local", "--dataset", "digits", "--output", "disk")
    assert "cannot write disk/mnist_local@digits" in complaint and "No space left" in complaint
    assert sorted(path.name for path in small_disk.iterdir()) == ["a.json", "filler"]


def test_a_disk_that_cannot_be_written_is_told_before_the_work(refused, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setattr(cli, "run", lambda *a, **k: pytest.fail("it went to work"))
    for option in ("--json", "--checkpoint"):
        assert "cannot write disk/a: Read-only file system" in refused("train", *SMALL, option, "disk/a")
    assert "Read-only file system" in refused("record", "mnist_shared", "--output", "disk")


# --- Where nobody listens ---


def closed(stream):
    """The command with a standard stream closed, as ``>&-`` does in a shell."""
    command = [sys.executable, "-m", "noprop_helpers", "train", *SMALL, "--json", "out.json"]
    return subprocess.run(["sh", "-c", f'exec "$@" {stream}>&-', "sh", *command], capture_output=True, text=True)


def test_the_json_is_written_before_anything_is_printed(shell, monkeypatch):
    there = []
    monkeypatch.setattr(cli, "_say", lambda text: there.append(Path("out.json").exists()))
    assert shell("train", *SMALL, "--json", "out.json") == 0 and there == [True]


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_printed_is_in_its_file(unbuffered, tmp_path, device):
    """Standard output on a full disk: one clear line, no traceback, and Python's own complaint at its end neither."""
    with open(device("full"), "w") as full:
        done = run("train", *SMALL, "--json", "out.json", stdout=full, cwd=tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (2, "noprop_helpers: cannot print the result: No space left on device\n")
    assert json.loads((tmp_path / "out.json").read_text())["epochs"] == 2


@pytest.mark.slow
def test_a_reader_that_went_away_is_one_line(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = run("train", *SMALL, "--json", "out.json", stdout=write, cwd=tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, "noprop_helpers: cannot print the result: Broken pipe\n")
    assert json.loads((tmp_path / "out.json").read_text())["epochs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("stream", [1, 2])
def test_closed_streams_stop_nothing(stream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = closed(stream)
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("out.json").read_text())["epochs"] == 2
