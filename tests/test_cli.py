import fcntl
import functools
import json
import os
import struct
import subprocess
import sys
import termios

import pytest
import torch

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints, experiments, records, training


def run(*arguments, **environment):
    """The command as a user types it."""
    command = [sys.executable, "-m", "noprop_helpers", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_train_prints_one_line_and_writes_json(tmp_path):
    out = tmp_path / "out.json"
    done = run("train", "--epochs", "6", "--seed", "3", "--device", "cpu", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "not layer-local" in done.stdout
    assert done.stderr == ""  # no progress bar where nobody watches
    result = json.loads(out.read_text())
    assert {"test_accuracy", "train_seconds", "epochs", "seed", "device", "versions"} <= result.keys()
    assert (result["epochs"], result["seed"], result["preset"], result["layer_local"]) == (6, 3, "shared", False)
    assert f"{100 * result['test_accuracy']:.2f} %" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_terminal_gets_a_progress_bar():
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a new pseudo-terminal has no width, and a bar of width 0 does not show
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


def test_same_seed_same_result_other_seed_another(tmp_path):
    results = []
    for seed in ("1", "1", "2"):
        assert cli.main(["train", "--preset", "local", "--epochs", "3", "--seed", seed, "--json", str(tmp_path / "o")]) == 0
        result = json.loads((tmp_path / "o").read_text())
        assert result["layer_local"] is True
        results.append((result["test_accuracy"], result["top_layer_accuracy"]))
    assert results[0] == results[1] != results[2]


def test_default_presets_read_digits(capsys):
    """The bundled digits: enough to see that each preset learns, on any machine."""
    assert cli.main(["train"]) == 0
    assert cli.main(["train", "--preset", "local"]) == 0
    shared, local = (float(line.split("test accuracy ")[1].split(" %")[0]) for line in capsys.readouterr().out.splitlines())
    assert shared > 95 and local > 95


def test_training_leaves_the_callers_random_state_alone():
    from noprop_helpers.data import load_dataset

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    experiments.train_model(load_dataset("digits"), "shared", epochs=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--dataset", "nope"], "nope"),
        (["train", "--dataset", "folder:no/such/folder"], "no/such/folder"),
        (["train", "--epochs", "0"], "expected an integer >= 1, got '0'"),
        (["train", "--epochs", "2.5"], "got '2.5'"),
        (["train", "--seed", "-1"], "expected an integer >= 0, got '-1'"),
        (["train", "--seed", str(2**64)], "expected an integer"),
        (["train", "--preset", "best"], "invalid choice: 'best'"),
        (["train", "--json", "no/such/folder/out.json"], "no/such/folder does not exist"),
        (["train", "--json", "."], "it is a folder"),
        (["train", "--variant", "vae"], "invalid choice: 'vae'"),
        (["train", "--variant", "ct", "--preset", "local"], "take the preset paper"),
        (["train", "--preset", "shared", "--embedding", "learned"], "take the preset paper"),
        (["train", "--resume"], "--resume needs --checkpoint FILE"),
        (["train", "--resume", "--checkpoint", "none.pt"], "no file none.pt"),
        (["train", "--checkpoint", "no/such/folder/m.pt"], "no/such/folder does not exist"),
        (["record", "nope"], "unknown experiment 'nope'; choose one of mnist_shared"),
        ([], "required"),
    ],
)
def test_bad_arguments_get_exit_code_2_and_a_reason(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu():
    done = run("train", "--device", "cuda")
    assert done.returncode == 2 and "sees no CUDA GPU" in done.stderr


def test_missing_data_is_one_clear_line(tmp_path):
    # A proxy that nobody serves: the download fails at once, with or without a network.
    dead = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = run("train", "--dataset", "mnist", "--data-root", str(tmp_path / "data"), **dead, NO_PROXY="", no_proxy="")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train-images-idx3-ubyte" in done.stderr and str(tmp_path / "data") in done.stderr
    assert list(tmp_path.iterdir()) == []


def tiny_experiment(monkeypatch, seeds=(0, 1, 2), fail_at=None):
    calls = []

    def one(dataset, seed, device, progress, checkpoint):
        calls.append(seed)
        if seed == fail_at:
            raise KeyboardInterrupt
        return {"test_accuracy": seed / 10}

    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", experiments.Experiment("a test", "digits", seeds, one, {"x": (1, 2)}))
    return calls


def test_record_writes_runs_and_summary(monkeypatch, tmp_path):
    tiny_experiment(monkeypatch)
    value = experiments.record("tiny", folder=tmp_path)
    assert json.loads((tmp_path / "tiny.json").read_text()) == value
    assert [run["seed"] for run in value["runs"]] == [0, 1, 2]
    assert value["summary"]["test_accuracy"]["mean"] == pytest.approx(0.1)
    assert value["command"] == "python -m noprop_helpers record tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]


def test_an_interrupted_record_goes_on_where_it_stopped(monkeypatch, tmp_path):
    tiny_experiment(monkeypatch, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        experiments.record("tiny", folder=tmp_path)
    assert not (tmp_path / "tiny.json").exists()
    calls = tiny_experiment(monkeypatch)
    value = experiments.record("tiny", folder=tmp_path)
    assert calls == [2] and len(value["runs"]) == 3


def test_seeds_of_other_code_are_not_reused(monkeypatch, tmp_path):
    tiny_experiment(monkeypatch, fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        experiments.record("tiny", folder=tmp_path)
    monkeypatch.setattr(records, "git_commit", lambda: "another")
    calls = tiny_experiment(monkeypatch)
    experiments.record("tiny", folder=tmp_path)
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("variant, said", [("fm", "one block for all times"), ("backprop", "not layer-local")])
def test_variants_train_with_the_papers_settings(variant, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(training.VARIANTS, variant, functools.partial(training.VARIANTS[variant], num_steps=2))
    assert cli.main(["train", "--variant", variant, "--epochs", "1", "--json", str(tmp_path / "out.json")]) == 0
    assert f"digits {variant}/paper: test accuracy" in (line := capsys.readouterr().out) and said in line
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["variant"], result["preset"], result["embedding"]) == (variant, "paper", "one_hot")
    assert result["layer_local"] == (variant == "fm") and result["weight_decay"] == 1e-3


def test_an_interrupted_command_resumes_to_the_same_model(tmp_path, monkeypatch, capsys):
    """train, killed after its first epoch, then --resume: the weights of an uninterrupted run."""
    command = ["train", "--epochs", "2", "--checkpoint"]
    assert cli.main([*command, str(tmp_path / "straight.pt")]) == 0
    save, saved = checkpoints.save, []

    def save_and_die(path, content):
        save(path, content)
        saved.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    assert cli.main([*command, str(tmp_path / "cut.pt")]) == 130 and len(saved) == 1
    monkeypatch.undo()
    assert cli.main([*command, str(tmp_path / "cut.pt"), "--resume"]) == 0
    one, two = (checkpoints.load(tmp_path / f"{name}.pt")["state"] for name in ("straight", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(" after ")[0] == lines[1].split(" after ")[0]


def test_record_takes_a_copy_of_the_data(monkeypatch, tmp_path):
    tiny_experiment(monkeypatch)
    value = experiments.record("tiny", dataset="digits", folder=tmp_path)
    assert value["command"] == "python -m noprop_helpers record tiny --dataset digits"
