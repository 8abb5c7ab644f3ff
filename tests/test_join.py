"""Layers apart: trained in runs that never meet, and put together from their files."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import some_of, states_equal, write_digits

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.data import load_dataset
from noprop_helpers.runs import join, load_trained, measured, plan, run, save_trained

ROOT = Path(__file__).parent.parent
LOCAL = {"epochs": "3", "hidden_dim": "16", "num_centres": "20", "feature_dropout": "0.2"}
PAPER = {"epochs": "2", "num_steps": "3", "batch_size": "50", "precision": "float32"}

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def data(digits):
    return some_of(digits, 300, 60)


def train(data, path, layers=None, recipe="local", **changes):
    """A run of all layers, or of some; -> its file."""
    changes = (LOCAL if recipe == "local" else PAPER) | changes | ({"layers": layers} if layers else {})
    run(plan(data, recipe, changes), data, checkpoint=path)
    return path


@pytest.fixture(scope="module")
def parts(data, tmp_path_factory):
    """Files of layers 1 to 4 and 5 to 10 of a run of the recipe "local". Nobody may write to them."""
    folder = tmp_path_factory.mktemp("parts")
    return [train(data, folder / "a.pt", "1-4"), train(data, folder / "b.pt", "5-10")]


# --- What comes out ---


@pytest.mark.slow
def test_small_layers_joined_are_those_of_one_run(data, parts, tmp_path):
    whole = load_trained(train(data, tmp_path / "whole.pt"))
    for files in (parts, parts[::-1]):
        joined = join(files)
        # A stack of another number of layers is cut among threads and vectors in another way, and so rounds otherwise.
        torch.testing.assert_close(dict(joined.model.state_dict()), dict(whole.model.state_dict()), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joined.history, whole.history, rtol=1e-4, atol=1e-5)
        assert joined.run == whole.run and joined.run.settings.layers is None and joined.about == whole.about
        assert joined.seconds == pytest.approx(sum(checkpoints.load(file)["seconds"] for file in parts))
        # The same noise from the same seed: all answers are the same, unless two classes were as good as equal.
        ours, theirs = (measured(one.model, one.run, data)[1] for one in (joined, whole))
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).double().mean() > 0.97 for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [("1", "2-3"), ("1-2", "3"), ("3", "1", "2"), ("1,3", "2")], ids=" ".join)
def test_the_papers_blocks_joined_are_those_of_one_run_bit_for_bit(cut, data, tmp_path):
    """BatchNorm's averages included. The readout, which every layer's loss trains, comes from the part with layer 1."""
    whole = load_trained(train(data, tmp_path / "whole.pt", recipe="paper-dt")).model
    files = {layers: train(data, tmp_path / f"{layers}.pt", layers, recipe="paper-dt") for layers in cut}
    joined = join(files.values()).model
    assert states_equal(joined.layers, whole.layers) and states_equal(joined.encoder, whole.encoder)
    first = checkpoints.load(next(file for layers, file in files.items() if layers.startswith("1")))["state"]
    for name, value in joined.readout.state_dict().items():
        assert torch.equal(value, first[f"readout.{name}"])
    if not cut[0].startswith("1"):
        other = checkpoints.load(files[cut[0]])["state"]
        assert any(not torch.equal(v, other[f"readout.{n}"]) for n, v in joined.readout.state_dict().items())


def test_layers_outside_a_part_are_not_in_its_file(data, parts):
    state = checkpoints.load(parts[0])["state"]
    assert {int(name.split(".")[1]) for name in state if name.startswith("layers.")} == {0, 1, 2, 3}
    assert any(name.startswith("encoder.") for name in state)


def test_a_whole_model_is_joined_from_itself(data, tmp_path):
    """One file with all layers: measured again."""
    path = train(data, tmp_path / "whole.pt")
    assert states_equal(join([path]).model, load_trained(path).model)


def test_what_is_joined_can_be_kept_and_loaded(data, parts, tmp_path):
    joined = join(parts)
    save_trained(tmp_path / "whole.pt", joined)
    loaded = load_trained(tmp_path / "whole.pt")
    assert states_equal(joined.model, loaded.model) and not loaded.model.training
    assert loaded.run == joined.run and loaded.seconds == joined.seconds and torch.equal(loaded.history, joined.history)
    assert measured(loaded.model, loaded.run, data)[0] == measured(joined.model, joined.run, data)[0]
    assert states_equal(join([tmp_path / "whole.pt"]).model, joined.model)


# --- What does not fit ---


def test_missing_layers_are_named(data, parts, tmp_path):
    with pytest.raises(CheckpointError, match="nobody trained layers 1, 2, 3, 4: give their files too"):
        join(parts[1:])
    middle = train(data, tmp_path / "middle.pt", "5-7,9")
    with pytest.raises(CheckpointError, match="nobody trained layers 8, 10: give"):
        join([parts[0], middle])


def test_no_layer_comes_twice(data, parts, tmp_path):
    twice = train(data, tmp_path / "c.pt", "4-5")
    with pytest.raises(CheckpointError, match=r"layer 4 is in both .*a.pt and .*c.pt; name one of them"):
        join([*parts, twice])
    whole = train(data, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="layer 1 is in both"):
        join([*parts, whole])
    (tmp_path / "link.pt").symlink_to(parts[0])
    with pytest.raises(CheckpointError, match="layer 1 is in both .*a.pt and .*link.pt"):
        join([*parts, tmp_path / "link.pt"])


def test_a_part_that_is_not_finished_is_not_joined(data, parts, tmp_path):
    """Stopped after two of three epochs."""

    def stop_at_3(work, text):
        if text.startswith("epoch 3"):
            raise KeyboardInterrupt
        return work

    planned = plan(data, "local", LOCAL | {"layers": "5-10"})
    with pytest.raises(KeyboardInterrupt):
        run(planned, data, checkpoint=tmp_path / "b.pt", progress=stop_at_3)
    with pytest.raises(CheckpointError, match="b.pt is trained for 2 of 3 epochs: go on with --resume"):
        join([parts[0], tmp_path / "b.pt"])
    run(planned, data, checkpoint=tmp_path / "b.pt", resume=True)
    assert states_equal(join([parts[0], tmp_path / "b.pt"]).model, join(parts).model)


@pytest.mark.parametrize("changes, message", [
    ({"seed": "1"}, "b.pt has seed 1, expected 0"),
    ({"learning_rate": "1e-3"}, "b.pt has learning_rate 0.001, expected 0.004"),
    ({"epochs": "2"}, "b.pt has epochs 2, expected 3"),
    ({"precision": "bfloat16"}, "b.pt has precision bfloat16, expected float32"),
    ({"hidden_dim": "17"}, "b.pt has hidden_dim 17, expected 16"),
    ({"num_centres": "21"}, "b.pt has num_centres 21, expected 20"),
    ({"num_steps": "11"}, "b.pt has num_steps 11, expected 10"),
])  # fmt: skip
def test_parts_of_two_runs_are_not_joined(changes, message, data, parts, tmp_path):
    other = train(data, tmp_path / "b.pt", "5-10", **changes)
    with pytest.raises(CheckpointError, match=message):
        join([parts[0], other])


def test_parts_of_other_data_are_not_joined(data, parts, tmp_path):
    flipped = data._replace(train_images=data.train_images.flip(3))
    with pytest.raises(CheckpointError, match="b.pt has dataset_checksum sha256:.*, expected sha256"):
        join([parts[0], train(flipped, tmp_path / "b.pt", "5-10")])
    with pytest.raises(CheckpointError, match="mine.pt has dataset mine, expected digits"):
        join([parts[0], train(data._replace(name="mine"), tmp_path / "mine.pt", "5-10")])


def test_files_of_something_else_are_not_joined(data, parts, tmp_path):
    join(parts).model.save(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="weights.pt does not say what model it holds"):
        join([parts[0], tmp_path / "weights.pt"])
    with pytest.raises(CheckpointError, match="no file"):
        join([parts[0], tmp_path / "none.pt"])
    flow = train(data, tmp_path / "flow.pt", recipe="paper-fm")
    with pytest.raises(CheckpointError, match="flow.pt has recipe paper-fm, expected local"):
        join([parts[0], flow])


# --- From a shell ---

COMMAND = ["train", "--preset", "local", "--epochs", "2", "--set", "hidden_dim=16", "--set", "num_centres=20"]


def test_the_commands_of_the_book(tmp_path, monkeypatch, capsys):
    """Two parts, joined, measured and kept, against one process with all layers."""
    monkeypatch.chdir(tmp_path)
    assert cli.main([*COMMAND, "--layers", "6-10", "--checkpoint", "b.pt"]) == 0  # in any order, at any time
    assert cli.main([*COMMAND, "--layers", "1-5", "--checkpoint", "a.pt"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("layers 6, 7, 8, 9, 10, trained in ") and said[0].endswith("b.pt: join puts the parts together")
    assert len(said) == 2
    assert cli.main(["join", "a.pt", "b.pt", "--checkpoint", "whole.pt", "--json", "joined.json"]) == 0
    assert cli.main([*COMMAND, "--json", "one.json"]) == 0
    joined, one = capsys.readouterr().out.splitlines()
    assert joined.split(" after ")[0] == one.split(" after ")[0] and joined.endswith("; layer-local")
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("joined", "one")]
    assert told[0]["test_accuracy"] == told[1]["test_accuracy"] and told[0]["run"] == told[1]["run"]
    assert {"test_accuracy", "train_seconds", "epochs", "seed", "device", "precision", "versions"} <= told[0].keys()
    loaded = load_trained("whole.pt")
    again, _ = measured(loaded.model, loaded.run, load_dataset("digits"))
    assert again["test_accuracy"] == told[0]["test_accuracy"]


def refused(capsys, *arguments):
    """The one line that a command is refused with."""
    assert cli.main(list(arguments)) == 2
    out, complaint = capsys.readouterr()
    assert out == "" and len(complaint.splitlines()) == 1
    return complaint


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """A folder with a.pt and b.pt, the parts of a run on the digits, and ``refused``."""
    monkeypatch.chdir(tmp_path)
    for layers, file in (("1-5", "a.pt"), ("6-10", "b.pt")):
        assert cli.main([*COMMAND, "--epochs", "1", "--layers", layers, "--checkpoint", file]) == 0
    capsys.readouterr()
    return functools.partial(refused, capsys)


def test_a_join_that_cannot_be_is_one_clear_line(shell, tmp_path):
    before = {name: (tmp_path / name).read_bytes() for name in ("a.pt", "b.pt")}
    assert "nobody trained layers 6, 7, 8, 9, 10" in shell("join", "a.pt")
    assert "layer 1 is in both a.pt and ./a.pt" in shell("join", "a.pt", "./a.pt", "b.pt")
    assert "no file none.pt" in shell("join", "a.pt", "none.pt")
    assert "no file no/such/a.pt" in shell("join", "no/such/a.pt")
    # Nothing that is read, and nothing that was there, is written over.
    assert "b.pt and b.pt are one file" in shell("join", "a.pt", "b.pt", "--checkpoint", "b.pt")
    assert "./a.pt and a.pt are one file" in shell("join", "a.pt", "b.pt", "--json", "./a.pt")
    assert "whole and whole are one file" in shell("join", "a.pt", "b.pt", "--json", "whole", "--checkpoint", "whole")
    (tmp_path / "old.pt").write_bytes(b"old")
    assert "old.pt exists" in shell("join", "a.pt", "b.pt", "--checkpoint", "old.pt")
    assert (tmp_path / "old.pt").read_bytes() == b"old"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_join_needs_the_data_that_the_parts_saw(shell, tmp_path, monkeypatch):
    other = load_dataset("digits")
    other = other._replace(test_images=other.test_images.flip(3))
    monkeypatch.setattr(cli, "load_dataset", lambda *a, **k: other)
    complaint = shell("join", "a.pt", "b.pt")
    assert "the layers were trained on other data than digits holds now; name theirs with --dataset" in complaint


def test_parts_are_read_where_nothing_can_be_written(shell, tmp_path, monkeypatch, capsys):
    """Only files to write are asked whether they can be: the parts may lie on a disk that is read-only."""
    asked = []
    monkeypatch.setattr(cli, "check_writable", asked.append)
    assert cli.main(["join", "a.pt", "b.pt", "--json", "out.json"]) == 0
    assert asked == ["out.json"]


def test_layers_that_share_an_encoder_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--layers", "1-5", "--checkpoint", "a.pt"]
    complaint = refused(capsys, "train", "--preset", "shared", *options)
    assert "layers can be trained apart only where" in complaint and "one encoder is trained by all layers" in complaint
    complaint = refused(capsys, "train", "--preset", "paper", "--embedding", "learned", *options)
    assert "one embedding is trained by all layers" in complaint
    complaint = refused(capsys, "train", "--variant", "ct", "--layers", "1", "--checkpoint", "a.pt")
    assert "one block for all times" in complaint
    complaint = refused(capsys, "train", "--preset", "local", "--layers", "6-11", "--checkpoint", "a.pt")
    assert "expected layers out of 1 to 10" in complaint
    assert "--layers needs --checkpoint FILE, for join to put the parts together" in refused(
        capsys, "train", "--preset", "local", "--layers", "1-5"
    )
    assert list(tmp_path.iterdir()) == []


def commands_of(page):
    """The commands of a page of the book that train parts and join them, without their data set: it may be a large one."""
    text = (ROOT / page).read_text()
    if page.endswith("ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    text = text.replace("\\\n", " ")  # lines that go on
    found = re.findall(r"^ *python -m noprop_helpers (train .*--layers .*|join .*)$", text, re.M)
    return [re.sub(r"--dataset \S+", "", command).split() for command in found]


@pytest.mark.parametrize("page", ["README.md", "book/13-layers-in-parallel.ipynb"])
def test_the_book_gives_a_command_for_each_part_and_one_to_join_them(page):
    commands = commands_of(page)
    assert [command[0] for command in commands] == ["train", "train", "join"]
    parsed = [cli._parser().parse_args(command) for command in commands]
    assert [one.layers for one in parsed[:2]] == ["1-5", "6-10"]
    assert parsed[2].files == [one.checkpoint for one in parsed[:2]]
    assert all(one.preset == "local" for one in parsed[:2])


# A second of training, in ten epochs: long enough to be killed in the middle.
SHORT = ["--epochs", "10", "--set", "hidden_dim=16", "--set", "num_centres=10", "--set", "batch_size=4", "--threads", "1"]


def start(folder, command, *options):
    """A command in a process of its own, as typed into a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "noprop_helpers", *command, *options],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    """What a process said, which must have done well."""
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    return said


@pytest.mark.slow
def test_a_killed_part_is_started_again_alone(tmp_path, monkeypatch, capsys):
    """Two machines; one dies in the middle of its training. The other never knows, and ends. The dead one's part is started
    again by its own command with --resume, and the two make the model that they would have made undisturbed."""
    one, two, together = commands_of("book/13-layers-in-parallel.ipynb")
    write_digits(tmp_path / "digits")
    options = ["--dataset", "folder:digits", *SHORT]
    first, second = start(tmp_path, one, *options), start(tmp_path, two, *options)
    file, deadline = tmp_path / two[-1], time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert second.returncode == -signal.SIGKILL
    assert 1 <= len(checkpoints.load(file)["history"]) < 10
    assert "join puts the parts together" in finish(first)
    monkeypatch.chdir(tmp_path)
    assert "of 10 epochs: go on with --resume" in refused(capsys, *together)
    finish(start(tmp_path, two, *options, "--resume"))
    assert cli.main([*two, *options, "--checkpoint", "c.pt"]) == 0
    assert cli.main(together) == 0 and "folder:digits local: test accuracy" in capsys.readouterr().out
    straight, resumed = join(["a.pt", "c.pt"]), load_trained("whole.pt")
    assert states_equal(resumed.model, straight.model) and torch.equal(resumed.history, straight.history)
