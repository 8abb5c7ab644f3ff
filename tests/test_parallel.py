import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints, experiments
from noprop_helpers.blocks import ConvBlock, DenoisingMLP, LinearReadout, Standardize
from noprop_helpers.data import load_dataset
from noprop_helpers.layerwise import layers_for_rank
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.parallel import fit_rank, load_layers, rank_file, this_process
from noprop_helpers.schedules import cosine_alpha_bar
from noprop_helpers.training import fit

K, T = 10, 3


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    return data.train_images[:300], data.train_labels[:300]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def paper_model(images):
    """Figure 6 blocks on 8 x 8 images: BatchNorm, dropout, a readout."""
    torch.manual_seed(0)
    layers = [ConvBlock((1, 8, 8), K, K) for _ in range(T)]
    return NoPropDT(
        Standardize.fit(images, (0, 2, 3)), layers, torch.eye(K), cosine_alpha_bar(T),
        objective="elbo", readout=LinearReadout(K, K),
    )  # fmt: skip


def small_model(images):
    torch.manual_seed(0)
    layers = [DenoisingMLP(64, K, K, hidden_dim=16) for _ in range(T)]
    return NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(T))


SETTINGS = {"epochs": 2, "batch_size": 100, "one_cycle": True, "optimizer": "adamw", "weight_decay": 1e-3}


def assert_same_layers(a, b, numbers=range(1, T + 1), rounding=0.0):
    for t in numbers:
        torch.testing.assert_close(
            a.layers[t - 1].state_dict(), b.layers[t - 1].state_dict(), rtol=rounding, atol=rounding
        )


# --- Who trains what ---


def test_layers_for_rank_share_all_layers_evenly():
    for num_layers in range(1, 12):
        for world_size in range(1, 15):
            shares = [layers_for_rank(num_layers, rank, world_size) for rank in range(world_size)]
            assert [t for share in shares for t in share] == list(range(1, num_layers + 1))
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    for bad in [(0, 0, 1), (3, 2, 2), (3, -1, 2), (3, 0, 0)]:
        with pytest.raises(ValueError, match="rank < world_size"):
            layers_for_rank(*bad)


def test_this_process_reads_torchruns_variables(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == (0, 1)
    good = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in good.items():
        monkeypatch.setenv(name, value)
    assert this_process() == (1, 3)
    for name, value in [("RANK", "3"), ("RANK", "one"), ("WORLD_SIZE", ""), ("MASTER_PORT", "no"), ("MASTER_ADDR", "")]:
        with monkeypatch.context() as m, pytest.raises(ValueError, match="expected torchrun's variables"):
            m.setenv(name, value)
            this_process()
    for command in (["record", "mnist_shared"], ["bench"]):
        assert cli.main(command) == 2


# --- The layers come out as in one process ---


@pytest.mark.parametrize("order", ["together", "layer", "interleaved"])
def test_every_share_equals_the_run_of_all_layers(order, digits, tmp_path):
    """Dropout, BatchNorm, learning-rate cycle and weight decay included, for two processes and for four (one idle)."""
    build = small_model if order == "together" else paper_model
    # A stack of another number of layers is cut among threads and vectors in another way, and so rounds otherwise.
    rounding = 1e-5 if order == "together" else 0.0
    whole = build(digits[0])
    fit(whole, *digits, **SETTINGS, order=order, generator=generator(3))
    for world_size in (2, 4):
        gathered = build(digits[0])
        for rank in range(world_size):
            model, own = build(digits[0]), layers_for_rank(T, rank, world_size)
            losses = fit_rank(
                model, *digits, rank, world_size, **SETTINGS, order=order, generator=generator(3),
                checkpoint=tmp_path / f"{order}.pt",
            )  # fmt: skip
            assert losses.shape == (2, len(own))
            assert_same_layers(whole, model, own, rounding)
            assert_same_layers(build(digits[0]), model, [t for t in range(1, T + 1) if t not in own])
        files = [rank_file(tmp_path / f"{order}.pt", rank, world_size) for rank in range(min(T, world_size))]
        assert load_layers(gathered, files) == [1, 2, 3]
        assert_same_layers(whole, gathered, rounding=rounding)


def test_a_share_resumes_to_the_same_bits_and_its_file_holds_it_alone(digits, tmp_path):
    settings = {**SETTINGS, "order": "layer", "checkpoint": tmp_path / "run.pt"}
    straight, cut, resumed = (paper_model(digits[0]) for _ in range(3))
    fit_rank(straight, *digits, 0, 2, **settings, generator=generator(1))
    straight_file = rank_file(tmp_path / "run.pt", 0, 2)
    state = checkpoints.load(straight_file)["state"]
    assert {name.split(".")[1] for name in state if name.startswith("layers.")} == {
        "0",
        "1",
    }  # rank 0 of 2 has layers 1, 2

    def stop(epoch):
        raise KeyboardInterrupt

    settings["checkpoint"] = tmp_path / "cut.pt"
    with pytest.raises(KeyboardInterrupt):
        fit_rank(cut, *digits, 0, 2, **settings, generator=generator(1), after_epoch=stop)
    fit_rank(resumed, *digits, 0, 2, **settings, generator=generator(99).manual_seed(1), resume=True)
    assert_same_layers(straight, resumed)
    with pytest.raises(ValueError, match="from a run with layers"):
        fit(
            paper_model(digits[0]),
            *digits,
            **SETTINGS,
            order="layer",
            generator=generator(1),
            checkpoint=straight_file,
            resume=True,
            layers=[1],
        )


def test_what_layers_share_cannot_be_trained_apart(digits):
    images, labels = digits
    model = small_model(images)
    model.train_encoder = True
    with pytest.raises(ValueError, match="one encoder is trained by all layers"):
        fit_rank(model, images, labels, 0, 2, epochs=1)
    learned = NoPropDT(nn.Flatten(), [DenoisingMLP(64, K, K)], nn.Parameter(torch.eye(K)), cosine_alpha_bar(1))
    with pytest.raises(ValueError, match="one embedding is trained by all layers"):
        fit(learned, images, labels, epochs=1, layers=[1])
    for bad in ([], [0], [4], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="layers in rising order out of 1 to 3"):
            fit(small_model(images), images, labels, epochs=1, layers=bad)


# --- Real processes ---


def start(rank, world_size, port, folder, *arguments, epochs="3"):
    """One process of a run, as torchrun would start it."""
    variables = {
        "RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "noprop_helpers",
        "train",
        "--preset",
        "local",
        "--epochs",
        epochs,
        "--device",
        "cpu",
    ]
    return subprocess.Popen(
        [*command, "--checkpoint", str(folder / "run.pt"), *arguments],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_killed_process_costs_its_own_layers_and_comes_back(tmp_path):
    """Two processes; the second is killed in training. The first finishes and waits; the second, started again, ends the run."""
    alone = subprocess.run(
        [sys.executable, "-m", "noprop_helpers", "train", "--preset", "local", "--epochs", "3", "--device", "cpu", "--checkpoint", str(tmp_path / "alone.pt")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    port = free_port()
    first, second = (start(rank, 2, port, tmp_path) for rank in (0, 1))
    files = [rank_file(tmp_path / "run.pt", rank, 2) for rank in (0, 1)]
    deadline = time.monotonic() + 120
    while not files[1].exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert second.returncode == -signal.SIGKILL
    while not (files[0].exists() and len(checkpoints.load(files[0])["history"]) == 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert first.poll() is None  # it has trained its layers and waits
    again = start(1, 2, port, tmp_path, "--resume")
    (said, complaints), (said_again, complaints_again) = first.communicate(timeout=120), again.communicate(timeout=120)
    assert first.returncode == again.returncode == 0, complaints + complaints_again
    assert said_again == "" and said.strip().endswith("layer-local, in 2 processes")
    # The whole is what one process makes: same layers, same accuracies.
    assert said.split(" after ")[0] == alone.split(" after ")[0]
    one = checkpoints.load(tmp_path / "alone.pt")["state"]
    for file in files:
        state = checkpoints.load(file)["state"]
        for name, value in state.items():  # up to the rounding of a smaller stack
            torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-5)


def test_what_cannot_run_in_parallel_says_so(tmp_path):
    _, complaint = start(0, 2, free_port(), tmp_path, "--preset", "shared").communicate(timeout=60)
    assert (
        complaint.startswith("noprop_helpers: layers can be trained apart only where")
        and len(complaint.splitlines()) == 1
    )
    assert list(tmp_path.iterdir()) == []


def test_a_process_without_layers_resumes_without_a_file(tmp_path, monkeypatch):
    """The eleventh of eleven processes for ten layers."""
    monkeypatch.setattr(experiments, "gather_layers", lambda *a: None)
    options = {"epochs": 1, "rank": 10, "world_size": 11, "checkpoint": tmp_path / "run.pt", "resume": True}
    assert experiments.train_model(load_dataset("digits"), "local", **options).result["train_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_share_is_refused(digits, tmp_path):
    model = small_model(digits[0])
    model.save(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="does not say which layers it holds"):
        load_layers(model, [tmp_path / "weights.pt"])
