"""The suite peers: one epoch of MNIST by other people's public implementations, and by this package's presets.

Their code is no part of this book. It is imported from clones, in a folder that the environment variable NOPROP_PEERS names,
each called as its owner. Ours is only how each is called: with its own model, optimizer, batch size and inference, with its
own defaults, and with images as it would normalise them itself. Each runs in a process of its own.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from .. import NoPropError, checkpoints
from ..benchmark import row
from ..data import Dataset, import_torchvision
from ..passes import reseed
from ..runs import num_parameters, plan, trained
from ..training import Keeper, predictions
from .recording import Recording

Rows = list[dict]
TESTED = 1000  # test images: some models are asked a hundred times, or a thousand, about each
PRESETS = ("shared", "local", "paper-dt", "paper-ct")
# What peers import and an epoch does not need: searches, plots, logging, other data.
NOT_NEEDED = ("optuna", "optuna.samplers", "plotly", "kaleido", "wandb", "torchinfo", "medmnist")


class Learner(NamedTuple):
    """Somebody's model, ready: ``epoch()`` trains it for one, ``classes(images [B, 1, H, W])`` says [B]."""

    modules: list[nn.Module]
    epoch: Callable[[], object]
    classes: Callable[[Tensor], Tensor]


class Peer(NamedTuple):
    """Whose it is, what it does, where it is from, and ``begin(folder, images, labels)``, which makes a ``Learner`` of it.

    ``commit`` is that of the file which trains, as it was read when the way to call it was written.
    """

    owner: str
    title: str
    repository: str
    commit: str
    begin: Callable[[Path, Tensor, Tensor], Learner]


# --- How each is called -----------------------------------------------------------------------------------------------


def yhgon_ct(folder: Path, images: Tensor, labels: Tensor) -> Learner:
    """NoProp-CT on a ResNet-18, 2,048 images a batch, forty steps of Heun's method."""
    peer = _imported("noprop.mnist", folder / "src")
    model = peer.NoPropCT("resnet18", num_classes=10, time_emb_dim=64, embed_dim=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    batches = _batches(_three_channels(images), labels, 2048, drop_last=True)

    def epoch():
        for x, y in batches:
            peer.train_step(model, x, y, optimizer, "cpu")

    return Learner([model], epoch, lambda x: peer.run_noprop_ct_inference_heun(model, _three_channels(x)))


def halachev(variant: str, folder: Path, images: Tensor, labels: Tensor) -> Learner:
    """NoProp-DT or NoProp-CT by its own file of settings.

    Its embeddings start at prototypes, which a ResNet-18 trained on ImageNet chooses; here it is untrained, so that nothing
    has to be fetched. That changes where the embeddings start, and nothing that takes time. The settings of CT are those of
    commit 67bf727, an embedding of 784: what they were when the file that trains was written is not known.
    """
    sys.path.insert(0, str(folder / "src"))  # some of its modules say src.x, some x
    part = functools.partial(_imported, folder=folder)
    settings, kinds, wrapper = part("src.utils.model_config"), part("src.utils.train_config"), part("src.models.model_wrapper")
    file = folder / f"config_data/mnist_noprop_{variant}.json"
    training = kinds.NoPropTrainConfig("unused.pt", part("src.data.dataset_manager").DatasetType.MNIST, folder).from_file(file)
    sizes = getattr(settings, f"NoProp{variant.upper()}Config")().from_file(file)
    model = getattr(part(f"src.models.noprop_{variant}"), f"NoProp{variant.upper()}")(sizes, torch.device("cpu"))
    batches = _batches(_three_channels(images), labels, training.batch_size)
    untrained = functools.partial(_without_weights, wrapper.Backbone)
    with mock.patch.object(wrapper, "Backbone", untrained):
        wrapper.NoPropModelWrapper(model, sizes, training).initialize_with_prototypes(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    epoch = functools.partial(model.train_epoch, optimizer, None, batches, training.eta, 1, 1)
    return Learner([model], epoch, lambda x: model.infer(_three_channels(x)).argmax(1))


def vpuhoff_dt(folder: Path, images: Tensor, labels: Tensor) -> Learner:
    """A chain of ten blocks that predict the noise, with the settings of its documented run."""
    peer = _imported("noprop_example", folder)
    settings = peer.config | {
        "LR": 0.01, "ETA_LOSS_WEIGHT": 2.0, "LAMBDA_GLOBAL": 1.0, "EMBED_WD": 1e-7, "WEIGHT_DECAY": 1e-3, "EPOCHS": 100,
        "T_max_epochs": 100, "eta_min_lr": 1e-6,
    }  # fmt: skip
    T, K, D = settings["T"], settings["NUM_CLASSES"], settings["EMBED_DIM"]
    schedule = peer.precompute_diffusion_coefficients(T, torch.device("cpu"), settings["s_noise_schedule"])
    embedding = peer.initialize_embeddings(K, D, torch.device("cpu"))
    model = peer.NoPropNet(T, D, K, settings["IMG_CHANNELS"], settings["IMG_SIZE"])
    blocks, last, _, _, squared, entropy = peer.initialize_training_components(model, embedding, settings, use_scheduler=True)
    batches = _batches(_normalised(images), labels, settings["BATCH_SIZE"])
    epoch = functools.partial(
        peer.train_epoch, 0, model, embedding, batches, blocks, last, squared, entropy, schedule, settings
    )
    walk = functools.partial(peer.run_inference, T_steps=T, diff_coeffs=schedule, device=torch.device("cpu"))
    return Learner([model, embedding], epoch, lambda x: walk(model, _normalised(x)).argmax(1))


def eoghanf_dt(folder: Path, images: Tensor, labels: Tensor) -> Learner:
    """A chain of ten blocks, every batch through all of them; its trainer's loop repeated here without its logging."""
    peer = _imported("src.models", folder)
    model = peer.NoPropNetwork(10, 1, 28, 10, "cosine", 0.001, 0.999)
    blocks = list(model.denoising_modules)
    optimizers = [torch.optim.AdamW(block.parameters(), lr=1e-3, weight_decay=1e-3) for block in blocks]
    batches = _batches(_normalised(images), labels, 128)

    def epoch():
        for x, y in batches:
            for t, (block, optimizer) in enumerate(zip(blocks, optimizers)):
                optimizer.zero_grad()
                model.compute_loss(x, y, t).backward()
                nn.utils.clip_grad_norm_(block.parameters(), max_norm=1.0)
                optimizer.step()

    return Learner([model], epoch, lambda x: model(_normalised(x), mode="inference").argmax(1))


PEERS = {
    "yhgon_ct": Peer(
        "yhgon", "NoProp-CT, one ResNet-18", "yhgon/NoProp", "9ba0db42b320410e71db5c156a27fc5bb1ce40fc", yhgon_ct
    ),
    "halachev_ct": Peer(
        "DanielHalachev", "NoProp-CT", "DanielHalachev/NoProp", "e51bfd8eca8022baf9cc1a17545b1804282a4da5",
        functools.partial(halachev, "ct"),
    ),
    "halachev_dt": Peer(
        "DanielHalachev", "NoProp-DT, ten blocks", "DanielHalachev/NoProp", "d7797116186346d089b6bc8a60a5d939168e7552",
        functools.partial(halachev, "dt"),
    ),
    "vpuhoff_dt": Peer(
        "vpuhoff", "NoProp-DT, ten blocks that predict the noise", "vpuhoff/noprop-dt-mnist-pytorch",
        "086633e861b9603ebdb78191cd78a7ebec5e7eb0", vpuhoff_dt,
    ),
    "eoghanf_dt": Peer(
        "eoghanf", "NoProp-DT, ten blocks", "eoghanf/NoPropLLM", "b9d81369b4e9d8a2ce730b4102aa71b4e7a44a83", eoghanf_dt
    ),
}  # fmt: skip


# --- Measuring --------------------------------------------------------------------------------------------------------


def peer_part(name: str, dataset: Dataset, recording: Recording) -> Rows:
    """One epoch of somebody's model, in a fresh process on as many threads as here, and how often it is right then."""
    folder = os.environ.get("NOPROP_PEERS", "")
    owner = PEERS[name].owner
    if not folder or not (Path(folder) / owner).is_dir():
        raise NoPropError(f"expected a clone of {PEERS[name].repository} in NOPROP_PEERS/{owner}, got NOPROP_PEERS={folder!r}")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.pt"
        checkpoints.save(data, {"data": [dataset.train_images, dataset.train_labels, *_tested(dataset)]})
        command = [sys.executable, "-m", __name__, name, folder, str(data), str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NoPropError(f"{PEERS[name].repository} ended with code {done.returncode}: {why}")
    return _rows(name, **json.loads(done.stdout.splitlines()[-1]))


def preset_part(preset: str, dataset: Dataset, recording: Recording) -> Rows:
    """One epoch of a preset of this package, in float32 as the others."""
    keeper, run = Keeper(), plan(dataset, preset, {"epochs": "1", "precision": "float32"})
    model, _ = trained(run, dataset, "cpu", keeper)
    images, labels = _tested(dataset)
    said = predictions(model, images, torch.Generator().manual_seed(0))
    right = (said == labels).double().mean().item()
    return _rows(preset.replace("-", "_"), seconds=keeper.seconds, right=right, parameters=num_parameters(model))


PEER_PARTS = {preset.replace("-", "_"): functools.partial(preset_part, preset) for preset in PRESETS}
PEER_PARTS |= {name: functools.partial(peer_part, name) for name in PEERS}


def measured(peer: Peer, folder: Path, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor) -> dict:
    """Seconds of an epoch, share of the test images that it is right about then, and how many numbers are trained."""
    reseed(0)
    learner = peer.begin(folder / peer.owner, images, labels)
    for module in learner.modules:
        module.train()
    start = time.perf_counter()
    learner.epoch()
    seconds = time.perf_counter() - start
    for module in learner.modules:
        module.eval()
    with torch.no_grad():
        said = torch.cat([learner.classes(x) for x in test_images.split(200)])
    parameters = sum(p.numel() for module in learner.modules for p in module.parameters() if p.requires_grad)
    return {"seconds": seconds, "right": (said == test_labels).double().mean().item(), "parameters": parameters}


def _rows(name: str, seconds: float, right: float, parameters: int) -> Rows:
    return [
        row(f"{name}_epoch", [seconds], "s"),
        row(f"{name}_right", [right], "share of the test images"),
        row(f"{name}_parameters", [float(parameters)], "trained numbers"),
    ]


def _tested(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return dataset.test_images[:TESTED], dataset.test_labels[:TESTED]


def _imported(module: str, folder: Path):
    """A peer's module, without what it imports and an epoch does not need."""
    import_torchvision()
    for name in NOT_NEEDED:
        sys.modules.setdefault(name, mock.MagicMock(log=_forget))  # a mock keeps all that it is told, losses and their graphs
    sys.path.insert(0, str(folder))
    return importlib.import_module(module)


def _forget(values: dict) -> None:
    """In the place of wandb.log."""


def _without_weights(backbone: Callable, kind, width: int, use_resnet: bool, pretrained: bool) -> nn.Module:
    return backbone(kind, width, use_resnet=use_resnet, pretrained=False)


def _normalised(images: Tensor) -> Tensor:
    return (images - 0.1307) / 0.3081  # MNIST's mean and deviation, as all peers write them


def _three_channels(images: Tensor) -> Tensor:
    return _normalised(images).expand(-1, 3, -1, -1)


def _batches(images: Tensor, labels: Tensor, batch_size: int, drop_last: bool = False) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size, shuffle=True, drop_last=drop_last)


def main(arguments: list[str]) -> None:
    """In a process of its own: NAME FOLDER DATA THREADS -> one line of JSON, the last that is printed."""
    name, folder, data, threads = arguments
    torch.set_num_threads(int(threads))
    print("\n" + json.dumps(measured(PEERS[name], Path(folder), *checkpoints.load(data)["data"])))


if __name__ == "__main__":
    main(sys.argv[1:])
