"""An epoch of other people's implementations: each is stood in for by a module of a few lines, called as the real one is."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import some_of

from noprop_helpers import NoPropError
from noprop_helpers.lab import bench_peers
from noprop_helpers.lab.bench_peers import PEER_PARTS, PEERS, PRESETS, peer_part, preset_part
from noprop_helpers.lab.recording import Recording

# What the adapters call of each peer, and no more. All answer with the class that the brightest pixel's place says.
SAYS = "lambda x: x.flatten(1)[:, :10].argmax(1)"
STAND_INS = {
    "yhgon/src/noprop/mnist.py": f"""
import torch, torchvision
steps = []
class NoPropCT(torch.nn.Linear):
    def __init__(self, backbone, num_classes, time_emb_dim, embed_dim):
        super().__init__(3, num_classes)
        assert (backbone, num_classes, time_emb_dim, embed_dim) == ("resnet18", 10, 64, 256)
def train_step(model, x, y, optimizer, device):
    assert model.training and x.shape[1:] == (3, 28, 28) and len(x) == len(y) == 2048
run_noprop_ct_inference_heun = lambda model, x: ({SAYS})(x[:, 0])
""",
    "eoghanf/src/models.py": """
import torch
class NoPropNetwork(torch.nn.Module):
    def __init__(self, T, channels, side, K, schedule, low, high):
        super().__init__()
        assert (T, channels, side, K, schedule) == (10, 1, 28, 10, "cosine")
        self.denoising_modules = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(T))
        self.told = []
    def compute_loss(self, x, y, t):
        self.told.append(t)
        assert self.told == [i % 10 for i in range(len(self.told))]
        return self.denoising_modules[t](x.mean((1, 2, 3))[:, None]).square().mean()
    def forward(self, x, mode):
        assert mode == "inference" and not self.training
        return x.flatten(1)[:, :10]
""",
    "vpuhoff/noprop_example.py": """
import optuna, plotly, kaleido, torch
from optuna.samplers import GridSampler
config = {"T": 10, "NUM_CLASSES": 10, "EMBED_DIM": 20, "IMG_CHANNELS": 1, "IMG_SIZE": 28, "s_noise_schedule": 0.008, "BATCH_SIZE": 128}
precompute_diffusion_coefficients = lambda T, device, s: {"s": s}
initialize_embeddings = lambda K, D, device: torch.nn.Embedding(K, D)
class NoPropNet(torch.nn.Linear):
    def __init__(self, T, D, K, channels, side):
        super().__init__(D, K)
def initialize_training_components(model, embedding, settings, use_scheduler):
    assert settings["LR"] == 0.01 and settings["BATCH_SIZE"] == 128
    return "blocks", "last", [], None, "squared", "entropy"
def train_epoch(epoch, model, embedding, batches, blocks, last, squared, entropy, schedule, settings):
    assert (epoch, blocks, last, squared, entropy) == (0, "blocks", "last", "squared", "entropy")
    assert sum(len(x) for x, _ in batches) == len(batches.dataset)
run_inference = lambda model, x, T_steps, diff_coeffs, device: x.flatten(1)[:, :10]
""",
    "DanielHalachev/src/utils/model_config.py": """
import json
class NoPropDTConfig:
    def from_file(self, file):
        self.told = json.load(open(file))
        return self
""",
    "DanielHalachev/src/utils/train_config.py": """
class NoPropTrainConfig:
    batch_size, lr, weight_decay, eta = 32, 1e-3, 1e-3, 0.1
    def __init__(self, name, kind, path):
        assert kind == "mnist"
    def from_file(self, file):
        return self
""",
    "DanielHalachev/src/data/dataset_manager.py": "import medmnist\nclass DatasetType:\n    MNIST = 'mnist'\n",
    "DanielHalachev/src/models/model_wrapper.py": """
import wandb
from utils import model_config
def Backbone(kind, width, use_resnet, pretrained):
    return pretrained
class NoPropModelWrapper:
    def __init__(self, model, sizes, training):
        self.model = model
    def initialize_with_prototypes(self, batches):
        assert Backbone("RESNET18", 256, use_resnet=True, pretrained=True) is False  # nothing is fetched
        self.model.started = True
""",
    "DanielHalachev/src/models/noprop_dt.py": """
import torch
class NoPropDT(torch.nn.Linear):
    def __init__(self, sizes, device):
        super().__init__(2, 2)
        assert sizes.told == {"number_of_timesteps": 10}
    def train_epoch(self, optimizer, scheduler, batches, eta, epoch, epochs):
        assert self.started and scheduler is None and (eta, epoch, epochs) == (0.1, 1, 1)
        assert next(iter(batches))[0].shape == (32, 3, 28, 28)
        import gc, wandb
        wandb.log({"loss": torch.ones(7, 7, 7)})
        assert not [kept for kept in gc.get_objects() if torch.is_tensor(kept) and kept.shape == (7, 7, 7)]
    def infer(self, x):
        return x[:, 0].flatten(1)[:, :10]
""",
    "DanielHalachev/config_data/mnist_noprop_dt.json": json.dumps({"number_of_timesteps": 10}),
}
PARAMETERS = {"yhgon_ct": 40, "eoghanf_dt": 20, "vpuhoff_dt": 20 * 10 + 10 + 10 * 20, "halachev_dt": 6}


@pytest.fixture
def clones(tmp_path, monkeypatch):
    for name, source in STAND_INS.items():
        path = tmp_path / "clones" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setenv("NOPROP_PEERS", str(tmp_path / "clones"))
    return tmp_path / "clones"


@pytest.fixture
def data(digits):
    """2,100 images of 28 x 28, whose class k is where the first row is bright; 40 to test, the last ten of them mislabelled."""
    labels = torch.arange(2_140) % 10
    images = torch.zeros(2_140, 1, 28, 28)
    images[torch.arange(2_140), 0, 0, labels] = 1
    test_labels = labels[2_100:].clone()
    test_labels[30:] = (test_labels[30:] + 1) % 10
    return digits._replace(
        train_images=images[:2_100], train_labels=labels[:2_100], test_images=images[2_100:], test_labels=test_labels
    )


def told(rows):
    return {row["name"]: (row["value"], row["unit"]) for row in rows}


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("name", PARAMETERS)
def test_an_epoch_of_a_peer_as_its_owner_would_run_it(name, clones, data):
    found = told(peer_part(name, data, Recording()))
    assert found[f"{name}_right"] == (0.75, "share of the test images")
    assert found[f"{name}_parameters"] == (PARAMETERS[name], "trained numbers")
    assert found[f"{name}_epoch"][0] > 0 and found[f"{name}_epoch"][1] == "s" and len(found) == 3


@pytest.mark.slow
def test_a_peer_runs_apart(clones, data):
    """Its modules, its paths and what it prints stay in a process of their own."""
    before, path = set(sys.modules), list(sys.path)
    peer_part("vpuhoff_dt", data, Recording())
    assert sys.path == path and not {"noprop_example", "optuna", "kaleido"} & (set(sys.modules) - before)


@pytest.mark.slow
def test_what_a_peer_says_when_it_fails_is_one_line(clones, data, monkeypatch):
    (clones / "eoghanf/src/models.py").write_text("raise RuntimeError('not on this machine')")
    with pytest.raises(NoPropError, match="eoghanf/NoPropLLM ended with code 1: .*RuntimeError: not on this machine$") as error:
        peer_part("eoghanf_dt", data, Recording())
    assert len(str(error.value)) < 400
    monkeypatch.setenv("NOPROP_PEERS", str(clones / "elsewhere"))
    with pytest.raises(NoPropError, match="expected a clone of yhgon/NoProp in NOPROP_PEERS/yhgon, got NOPROP_PEERS='.*elsewhere'"):
        peer_part("yhgon_ct", data, Recording())
    monkeypatch.delenv("NOPROP_PEERS")
    with pytest.raises(NoPropError, match="got NOPROP_PEERS=''"):
        peer_part("yhgon_ct", data, Recording())


@pytest.mark.whole
def test_a_preset_trains_for_one_epoch(digits, monkeypatch):
    seen, trained = [], bench_peers.trained
    monkeypatch.setattr(bench_peers, "trained", lambda run, *rest: seen.append(run) or trained(run, *rest))
    data = some_of(digits, 200, 40)
    found = told(preset_part("paper-dt", data, Recording()))
    assert found.keys() == {"paper_dt_epoch", "paper_dt_right", "paper_dt_parameters"}
    assert (seen[0].settings.epochs, seen[0].settings.precision) == (1, "float32") and found["paper_dt_epoch"][0] > 0
    assert 0 <= found["paper_dt_right"][0] <= 1 and found["paper_dt_parameters"][0] > 1e6


def test_every_peer_names_its_source():
    assert list(PEER_PARTS) == [*(preset.replace("-", "_") for preset in PRESETS), *PEERS]
    for peer in PEERS.values():
        assert len(peer.commit) == 40 and int(peer.commit, 16) and peer.repository.count("/") == 1 and peer.title
    assert not any(path.name in {peer.owner for peer in PEERS.values()} for path in Path(bench_peers.__file__).parents[2].iterdir())
