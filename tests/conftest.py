"""What many tests need: the bundled digits, small models of every kind, and whether two of them hold the same numbers.

Fixtures come by their names; functions by ``from conftest import generator``.
"""

import contextlib
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
from pathlib import Path

# Before torch is loaded: its threads then wait without holding a core. On a machine with other work to do, small steps on
# two threads otherwise take ten times as long, or more.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell that starts these tests in the background has them, and all that they start, ignore Ctrl-C; some look at it.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from noprop_helpers.blocks import ConvBlock, DenoisingMLP, LinearReadout, Standardize
from noprop_helpers.data import Dataset, load_dataset
from noprop_helpers.diffusion import q_sample
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.passes import Model
from noprop_helpers.recipes import RECIPES, Shape
from noprop_helpers.schedules import cosine_alpha_bar

K = 10  # classes of the digits

# At night (`make test-everything`): data sets whole and not in part, every page in every way and not each kind of page.
EVERYTHING = bool(os.environ.get("NOPROP_EVERYTHING"))
at_night = pytest.mark.skipif(not EVERYTHING, reason="takes minutes: `make test-everything` has it, every night")

# Of the tests in a browser: what it is called here, and how it starts, with no other host to be reached.
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


BOOK = Path(__file__).parent.parent / "_build" / "html" / "index.html"


@pytest.hookimpl(tryfirst=True)  # before the expression of -m is asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the built book is skipped where there is none. What is slow comes first: at the end it would run alone."""
    no_book = pytest.mark.skip(reason="the book is not built: run `make book`")
    for item in items:
        if item.get_closest_marker("built") and not BOOK.exists():
            item.add_marker(no_book)
        if "browser" in getattr(item, "fixturenames", ()):  # a cell of a notebook asks for none
            item.add_marker(pytest.mark.browser)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Side by side, a file's tests stay in one process, for what they share: a notebook's kernel, a trained model. Of the many
    looks at the built pages, those at one page do."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileOrPage(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            page = re.search(r"\b(book/[\w/-]+|genindex|search)\]$", nodeid) if file.endswith("test_browser.py") else None
            return f"{file} {page.group(1)}" if page else file

    return ByFileOrPage(config, log)


# Closed after each module: a running Playwright keeps an event loop that would be in the way of the notebook tests.
@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The 1,797 digits; shared by all tests, so nobody may write into them."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def few_digits(digits) -> Dataset:
    """150 digits to train on, 20 to test: enough to run everything, and to learn next to nothing."""
    return some_of(digits, 150, 20)


def some_of(dataset: Dataset, num_train: int, num_test: int) -> Dataset:
    """The first images of a data set's two splits."""
    return dataset._replace(
        train_images=dataset.train_images[:num_train], train_labels=dataset.train_labels[:num_train],
        test_images=dataset.test_images[:num_test], test_labels=dataset.test_labels[:num_test],
    )  # fmt: skip


def write_digits(folder: Path, num_train: int = 400, num_test: int = 50) -> None:
    """The first digits as a data set of files, FOLDER/train/CLASS/*.png: a process reads them in no time."""
    digits = load_dataset("digits")
    for split, images, labels, number in (
        ("train", digits.train_images, digits.train_labels, num_train),
        ("test", digits.test_images, digits.test_labels, num_test),
    ):
        for i in range(number):
            path = folder / split / str(labels[i].item()) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((images[i, 0] * 255).byte().numpy()).save(path)


def write_mnist(root: Path) -> None:
    """Twelve images and eight of MNIST's shape, all black, in MNIST's files."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 12), ("t10k", 8)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes(count * 784)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def pages_of(contents: dict) -> list[str]:
    """All pages that _toc.yml lists, the landing page and those inside others included."""

    def with_sections(page: dict) -> list[str]:
        return [page["file"], *(name for section in page.get("sections", ()) for name in with_sections(section))]

    return [contents["root"], *(name for part in contents["parts"] for page in part["chapters"] for name in with_sections(page))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Places to write to ----------------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path):
    """Devices by name: "null", "full". Where the system lets us, copies of them: whoever may make a device could also, in a
    test that fails, put a file in its place."""

    def device(name):
        path = tmp_path / "devices" / name
        path.parent.mkdir(exist_ok=True)
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.stat(f"/dev/{name}").st_rdev)
            path.write_bytes(b"")
        except FileNotFoundError:
            pytest.skip(f"this system has no /dev/{name}")
        except OSError:
            return f"/dev/{name}"
        return str(path)

    return device


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


# --- Models -----------------------------------------------------------------------------------------------------------


def small_dt(images: Tensor, W: Tensor | None = None, T: int = 3, **options) -> NoPropDT:
    """Figure 6 blocks, dropout, BatchNorm and a readout included, on 8 x 8 images: the paper's NoProp-DT."""
    torch.manual_seed(0)
    W = torch.eye(K) if W is None else W
    options = {"objective": "elbo", "readout": LinearReadout(W.shape[1], K)} | options
    layers = [ConvBlock((1, 8, 8), W.shape[1], K) for _ in range(T)]
    return NoPropDT(Standardize.fit(images, (0, 2, 3)), layers, W, cosine_alpha_bar(T), **options)


def small_stack(T: int = 3, W: Tensor | None = None, **options) -> NoPropDT:
    """Two-layer perceptrons on 64 raw pixels, which train as one stack."""
    torch.manual_seed(0)
    layers = [DenoisingMLP(64, K, K, hidden_dim=16) for _ in range(T)]
    return NoPropDT(nn.Flatten(), layers, torch.eye(K) if W is None else W, cosine_alpha_bar(T), **options)


class DropoutLayer(nn.Module):
    """A layer that draws while it computes, and yet can be stacked."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(64 + K, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, K))

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        return self.mlp(torch.cat([features, z], 1))


def dropout_stack(T: int = 3) -> NoPropDT:
    torch.manual_seed(0)
    return NoPropDT(nn.Flatten(), [DropoutLayer() for _ in range(T)], torch.eye(K), cosine_alpha_bar(T))


def shape_of(images: Tensor, num_classes: int = K) -> Shape:
    return Shape(tuple(images.shape[1:]), num_classes, len(images))


def built(name: str, images: Tensor, labels: Tensor, num_classes: int = K, **settings) -> Model:
    """A recipe's model, built with weights from seed 0 and prepared, ready to be trained."""
    torch.manual_seed(0)
    recipe = RECIPES[name](**settings)
    model = recipe.build(shape_of(images, num_classes))
    recipe.prepare(model, images, labels, generator())
    return model


# --- Comparisons ------------------------------------------------------------------------------------------------------


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules built alike hold the same numbers, bit for bit, buffers included."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@contextlib.contextmanager
def unchanged(model: nn.Module):
    """What happens inside must leave every weight, every running statistic and every submodule's mode as it was."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    yield
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


# --- Layers without a model -------------------------------------------------------------------------------------------


@pytest.fixture
def layers() -> nn.ModuleList:
    """Four perceptrons in float64, for sharp comparisons."""
    torch.manual_seed(0)
    return nn.ModuleList(DenoisingMLP(6, 3, 3, hidden_dim=8) for _ in range(4)).double()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Five batches (features [16, 6], states [4, 16, 3], labels [16]) for these layers, in float64."""
    g, result = generator(1), []
    for _ in range(5):
        y = torch.randint(3, (16,), generator=g)
        noise = torch.randn(4, 16, 3, generator=g, dtype=torch.float64)
        z = q_sample(torch.eye(3, dtype=torch.float64)[y], cosine_alpha_bar(4)[1:], noise)
        result.append((torch.randn(16, 6, generator=g, dtype=torch.float64), z, y))
    return result
