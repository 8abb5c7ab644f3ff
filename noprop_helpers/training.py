"""Training: the loop, the file that keeps its state, and how often a model is right."""

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from . import NoPropError, checkpoints
from .augment import check_images
from .benchmark import processor, synchronize
from .checkpoints import CheckpointError
from .noprop import NoPropDT
from .passes import InTurn, Model, Progress, Solved, Together, check_batch_size, silent
from .settings import Settings

KEPT = {"state": dict, "optimizer": dict, "history": Tensor, "seconds": float, "where": dict}  # what goes on from a file
PASSES = {"together": Together, "layer": InTurn, "interleaved": InTurn, "solved": Solved}

__all__ = ["Keeper", "Settings", "accuracy", "fit", "predictions"]


class Keeper:
    """Keeps a run in a file, all or nothing, so that it can be taken up where it stopped, to the same bits.

    To the same bits on as many threads, the same kind of device and processor and the same PyTorch: another order of sums may
    round otherwise, and a run that is taken up elsewhere warns of it.

    - ``path``: written after every epoch; None keeps nothing
    - ``resume``: go on from the file, which must be of a run with the same model, settings, images and labels
    - ``every``: seconds that must have passed before the file is written again; after the last epoch it always is
    - ``about``: plain values to keep, which a resumed run must share too

    ``seconds`` is the training time so far, from the making of the Keeper, that before an interruption included. Raises
    CheckpointError where there is a file that ``resume`` does not ask for, where there is none or another run's that it asks
    for, and where another run writes the same file meanwhile.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> images, labels, settings = torch.rand(20, 1, 8, 8), torch.arange(20) % 2, Settings(epochs=2)
    >>> model = RECIPES["shared"]().build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> losses = fit(model, images, labels, settings, keeper=Keeper("run.pt"))
    >>> again = fit(model, images, labels, settings, keeper=Keeper("run.pt", resume=True))  # all epochs are done
    >>> torch.equal(losses, again)
    True
    """

    def __init__(self, path: str | Path | None = None, resume: bool = False, every: float = 0.0, about: dict | None = None):
        if resume and path is None:
            raise CheckpointError("resume needs the checkpoint to resume from")
        if path is not None and not resume and Path(path).is_file():
            raise CheckpointError(f"{path} exists: go on from it with --resume (resume=True), or name another file")
        self.path, self.every, self.about = path, every, about or {}
        self.mark = checkpoints.mark(path) if resume else None
        self.saved = checkpoints.load(path) if resume else None
        self.seconds, self.before = 0.0, 0.0
        self.started = self.written = time.perf_counter()

    def begin(self, model: Model, settings: Settings, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Put the kept weights into the model: -> the losses of the epochs that are done."""
        if self.path is None:
            return []
        self.run = {"about": self.about, "model": model.identity(), "settings": dataclasses.asdict(settings)}
        self.run["trained"] = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.where = {"threads": torch.get_num_threads(), "device": images.device.type, "torch": str(torch.__version__)}
        self.where["processor"] = processor()[0]
        before = time.perf_counter()
        self.run["data"] = checkpoints.checksum(images, labels)
        self.started += time.perf_counter() - before  # that was no training
        if self.saved is None:
            return []
        if "optimizer" not in self.saved:
            raise CheckpointError(f"{self.path} holds weights but no training to resume")
        checkpoints.check_same(self.saved, self.run, self.path)
        checkpoints.expect(self.saved, KEPT, self.path)
        _warn_of_other_bits(self.saved["where"], self.where, self.path)
        checkpoints.load_state(model, model.state_dict() | self.saved["state"], self.path)
        self.seconds = self.before = self.saved["seconds"]
        return list(self.saved["history"])

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the kept state into the optimizer."""
        if self.saved is None:
            return
        try:
            optimizer.load_state_dict(self.saved.pop("optimizer"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path} does not fit this model: its optimizer's state is another's ({error})") from None

    def write(self, model: Model, optimizer: torch.optim.Optimizer, history: list[Tensor], settings: Settings) -> None:
        """After an epoch, keep all that the next one needs, if a file is wanted and it is time."""
        synchronize(model.W.device)
        now = time.perf_counter()
        self.seconds = self.before + now - self.started
        done = len(history) == settings.epochs
        if self.path is None or not (done or now - self.written >= self.every):
            return
        if checkpoints.mark(self.path) not in (None, self.mark):
            raise CheckpointError(f"{self.path} was written by another run meanwhile: let that one end, or name another file")
        state = {name: value for name, value in model.state_dict().items() if _belongs(name, settings.layers)}
        kept = {"state": state, "optimizer": optimizer.state_dict(), "history": torch.stack(history)}
        checkpoints.save(self.path, self.run | kept | {"seconds": self.seconds, "where": self.where})
        self.mark = checkpoints.mark(self.path)
        self.written = time.perf_counter()


def fit(
    model: Model,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    *,
    keeper: Keeper | None = None,
    progress: Progress = silent,
    after_epoch: Callable[[int], None] | None = None,
) -> Tensor:
    """Train a model: images [N, C, H, W], labels [N] -> mean loss per epoch and trained layer [epochs, layers].

    A frozen layer stays as it is, and a frozen encoder is run over the images once. ``progress(iterable, description)`` may
    wrap long loops; ``after_epoch(epoch)`` sees the updated model, in evaluation mode, as it is left in the end.

    Raises ValueError on images and labels that cannot be trained on, NoPropError on settings that do not fit the model and,
    after an epoch in which a loss was not finite, with the layer and the step, or after which weights are not.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"]().build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> fit(model, torch.rand(20, 1, 8, 8), torch.arange(20) % 2, Settings(epochs=3)).shape  # of ten layers
    torch.Size([3, 10])
    """
    if not isinstance(model, Model) or not isinstance(settings, Settings):
        raise TypeError(f"expected a NoProp model and Settings, got {type(model).__name__} and {type(settings).__name__}")
    model.check_training(images, labels)
    check_batch_size(model, settings, len(images))
    settings, keeper = settings.on(images.device), keeper or Keeper()
    history = keeper.begin(model, settings, images, labels)
    one_pass = PASSES[settings.order](model, images, labels, settings, progress)
    keeper.restore(one_pass.optimizer)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        model.train()
        model.encoder.train(model.train_encoder)  # a frozen encoder stays as it predicts
        history.append(one_pass(epoch))
        model.eval()
        check_weights(model, epoch)
        keeper.write(model, one_pass.optimizer, history, settings)
        if after_epoch is not None:
            after_epoch(epoch)
    model.eval()  # also where all epochs were done before
    return torch.stack(history)


def check_weights(model: Model, epoch: int) -> None:
    """Raise NoPropError, with the first one's name, unless all weights are finite and small enough to be squared: the losses were
    taken before the epoch's last update.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"]().build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> check_weights(model, epoch=1)
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.detach().abs().max() < 1e10:
            raise NoPropError(f"training diverged: {name} is not finite, or huge, after epoch {epoch}; try a smaller learning_rate")


def predictions(
    model: Model, images: Tensor, generator: torch.Generator | None = None, predict: Callable | None = None
) -> Tensor:
    """The classes that a model says: images [N, C, H, W] -> [N] int64.

    ``predict(images, generator=...)``, where it is not the model's own: ``functools.partial(model.predict, noise=False)``,
    or ``functools.partial(model.predict_alone, t=3)``.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"]().build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> predictions(model, torch.rand(5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([5])
    """
    # The layers of a chain see every image anew and like it in the cache; a flow makes many small steps on its features.
    batch_size = 200 if isinstance(model, NoPropDT) else 1000
    predict = predict or model.predict
    return torch.cat([predict(x, generator=generator) for x in images.split(batch_size)])


def accuracy(
    model: Model,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None = None,
    predict: Callable | None = None,
) -> float:
    """Fraction of images classified correctly: images [N, C, H, W], labels [N]. Arguments as for ``predictions``.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"]().build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> 0 <= accuracy(model, torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 0])) <= 1
    True
    """
    check_images(images, labels, len(model.W))
    return (predictions(model, images, generator, predict) == labels).double().mean().item()


def _warn_of_other_bits(saved: dict, here: dict, path: str | Path) -> None:
    """A warning where a run goes on with other threads, on another kind of device or processor, or with another PyTorch."""
    if others := [f"{name} {here[name]} in place of {saved.get(name)}" for name in here if saved.get(name) != here[name]]:
        warnings.warn(f"{path} goes on with {', '.join(others)}: the last bits may differ from those of an unbroken run")


def _belongs(name: str, layers: tuple[int, ...] | None) -> bool:
    """Whether a name of a model's state is part of one of these layers, or of none ("layers.3.mlp.0.weight" is of layer 4)."""
    return layers is None or not name.startswith("layers.") or int(name.split(".")[1]) + 1 in layers
