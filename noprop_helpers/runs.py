"""The one way from data to numbers: a ``Run`` says what to do, ``run`` builds, trains and measures.

::

    dataset = load_dataset("digits")
    trained = run(plan(dataset, "local", {"epochs": "3"}), dataset)
    trained.results["test_accuracy"]
"""

import dataclasses
import functools
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from . import NoPropError, checkpoints
from .checkpoints import CheckpointError
from .data import Dataset, check_dataset, dataset_checksum
from .noprop import NoPropDT
from .passes import Model, Progress, seed_of, seeded, silent
from .recipes import RECIPES, PaperCT, PaperFM, Recipe, Shape, recipe_named
from .settings import Settings, changed
from .training import Keeper, fit, predictions


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides a run, as plain data: a recipe's name, its model's settings, how it is trained, on which data set,
    and how it is measured.

    ``inference_runs``: how often the test split is walked with fresh noise. ``steps``: numbers of inference steps at which a
    continuous-time model is measured too, as far as it has so many.

    Raises NoPropError on numbers of runs or steps that are no counts.

    >>> Run("local", RECIPES["local"](num_steps=5), Settings(epochs=3), dataset="digits").inference_runs
    1
    """

    recipe: str
    model: Recipe
    settings: Settings
    dataset: str
    inference_runs: int = 1
    steps: tuple[int, ...] = ()

    def __post_init__(self):
        if type(self.inference_runs) is not int or self.inference_runs < 1:
            raise NoPropError(f"inference_runs must be an integer of at least 1, got {self.inference_runs!r}")
        if not isinstance(self.steps, tuple) or not all(type(number) is int and number > 0 for number in self.steps):
            raise NoPropError(f"steps must be a tuple of integers of at least 1, got {self.steps!r}")
        if self.steps and not isinstance(self.model, (PaperCT, PaperFM)):
            raise NoPropError(f"steps are for models in continuous time, paper-ct and paper-fm; {self.recipe} walks its layers")


class Trained(NamedTuple):
    """A trained model, its numbers, the training losses [epochs, layers], and the classes that it said of every test image:
    name of the measurement -> [N]."""

    model: Model
    results: dict
    losses: Tensor
    predictions: dict[str, Tensor]


def shape_of(dataset: Dataset) -> Shape:
    """What a recipe needs to know of a data set.

    >>> from noprop_helpers.data import load_dataset
    >>> shape_of(load_dataset("digits"))
    Shape(image=(1, 8, 8), num_classes=10, num_images=1437)
    """
    return Shape(tuple(dataset.train_images.shape[1:]), len(dataset.class_names), len(dataset.train_labels))


def plan(dataset: Dataset, recipe: str = "shared", changes: dict[str, str] | None = None) -> Run:
    """A run of a recipe with its own settings for this data set, but for ``changes``: name of a setting -> text.

    Names are the fields of ``Settings`` and of the recipe, e.g. {"learning_rate": "3e-3", "num_steps": "5"}. Raises
    NoPropError where there is no such recipe or setting, a text does not fit, or the data have only one class or no image.

    >>> from noprop_helpers.data import load_dataset
    >>> plan(load_dataset("digits"), "local", {"epochs": "3", "num_steps": "5"}).settings.epochs
    3
    """
    if dataset.num_classes < 2:
        raise NoPropError(f"{dataset.name} has one class, {dataset.class_names[0]!r}: there is nothing to tell apart")
    if len(dataset.train_labels) == 0:
        raise NoPropError(f"{dataset.name}: expected at least one image to train on, got none")
    model, changes = recipe_named(recipe), changes or {}
    settings = model.settings(shape_of(dataset))
    own, general = ({field.name for field in dataclasses.fields(value)} for value in (model, settings))
    if unknown := [name for name in changes if name not in own | general]:
        raise NoPropError(f"{recipe} has no setting {unknown[0]!r}; choose one of {', '.join(sorted(own | general))}")
    model = changed(model, {name: text for name, text in changes.items() if name in own})
    settings = changed(settings, {name: text for name, text in changes.items() if name in general})
    return Run(recipe, model, settings, dataset.name)


def as_data(run: Run) -> dict:
    """A run as dictionaries, lists, numbers and text, from which ``from_data`` makes it again.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> as_data(plan(digits, "local", {"num_steps": "5"}))["model"]["num_steps"]
    5
    """
    return dataclasses.asdict(run)


def from_data(data: dict) -> Run:
    """The run that ``as_data`` described. Raises NoPropError where this version knows no such recipe or setting.

    >>> from noprop_helpers.data import load_dataset
    >>> planned = plan(load_dataset("digits"))
    >>> from_data(as_data(planned)) == planned
    True
    """
    try:
        settings = data["settings"] | {"layers": data["settings"]["layers"] and tuple(data["settings"]["layers"])}
        model = RECIPES[data["recipe"]](**data["model"])
        return Run(**data | {"model": model, "settings": Settings(**settings), "steps": tuple(data["steps"])})
    except (KeyError, TypeError) as error:
        raise NoPropError(f"this description of a run is of another version: {error}") from None


def build(run: Run, shape: Shape) -> Model:
    """The run's model, its weights drawn from the run's seed, torch's random state left alone.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> build(plan(digits), shape_of(digits)).num_layers
    10
    """
    with seeded(run.settings.seed):
        return run.model.build(shape)


def run(
    run: Run,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: float = 0.0,
    progress: Progress = silent,
) -> Trained:
    """Build the run's model, train it, and measure it on the test split.

    Seconds of training include fitting and computing features, not reading the data or measuring. ``checkpoint``, ``resume``
    and ``checkpoint_every`` as in ``Keeper``. Raises DataError on a data set that cannot be trained and measured on.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> trained = run(plan(digits, "closed_form", {"num_steps": "2"}), digits)  # solved in a moment
    >>> trained.results["test_accuracy"] > 0.9
    True
    """
    check_dataset(dataset)
    run = dataclasses.replace(run, settings=run.settings.on(device))
    keeper = Keeper(checkpoint, resume, checkpoint_every, description(run, dataset))
    model, losses = trained(run, dataset, device, keeper, progress)
    results, said = measured(model, run, dataset, device)
    results |= {"train_seconds": keeper.seconds, "summed_loss_by_epoch": losses.sum(1).tolist()}
    return Trained(model, results, losses, said)


def trained(
    run: Run,
    dataset: Dataset,
    device: torch.device | str,
    keeper: Keeper,
    progress: Progress = silent,
    after_epoch: Callable[[Model], None] | None = None,
) -> tuple[Model, Tensor]:
    """The run's model, trained, and its losses [epochs, layers]. ``after_epoch`` sees it after every epoch.

    Raises NoPropError where training diverged.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> model, losses = trained(plan(digits, "closed_form", {"num_steps": "2"}), digits, "cpu", Keeper())
    >>> losses.shape  # solved in one epoch
    torch.Size([1, 2])
    """
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    model = build(run, shape_of(dataset)).to(device).trained_on(shape_of(dataset).image, dataset.class_names)
    run.model.prepare(model, images, labels, torch.Generator(device).manual_seed(run.settings.seed))
    model.to(device)
    look = after_epoch and (lambda epoch: after_epoch(model))
    return model, fit(model, images, labels, run.settings, keeper=keeper, progress=progress, after_epoch=look)


def num_parameters(model: Model) -> int:
    """How many numbers of a model are trained.

    >>> num_parameters(torch.nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def description(run: Run, dataset: Dataset) -> dict:
    """What a file of weights must say to be used: the run, the shape of the images, the classes' names, the data's checksum.

    And what was done to a folder of images before, as ``Dataset.prepared`` tells it, if anything was.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> description(plan(digits), digits)["image_shape"]
    [1, 8, 8]
    """
    shape = shape_of(dataset)
    return ({"preparation": dataset.prepared} if dataset.prepared else {}) | {
        "run": as_data(run),
        "image_shape": list(shape.image),
        "num_images": shape.num_images,
        "class_names": list(dataset.class_names),
        "dataset_checksum": dataset_checksum(dataset),
    }


# --- Measuring --------------------------------------------------------------------------------------------------------


def measured(model: Model, run: Run, dataset: Dataset, device: torch.device | str = "cpu") -> tuple[dict, dict[str, Tensor]]:
    """Accuracies on the test split, and what the model said: -> (results, measurement -> classes [N]).

    The noise of every measurement follows from the run's seed and the measurement's number alone: the same model gives the
    same numbers whenever it is measured. ``test_accuracy`` is the mean of the walks in ``test_accuracy_by_run``.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> planned = plan(digits)
    >>> results, said = measured(build(planned, shape_of(digits)), planned, digits)
    >>> list(said), said["walk_0"].shape
    (['walk_0', 'top_layer_accuracy', 'accuracy_with_noise'], torch.Size([360]))
    """
    images, labels = dataset.test_images.to(device), dataset.test_labels.to(device)
    said = {}
    for number, (name, predict) in enumerate(_ways(model, run).items()):
        generator = torch.Generator(device).manual_seed(seed_of(run.settings.seed, 0, number))
        said[name] = predictions(model, images, generator, predict)
    right = {name: (classes == labels).double().mean().item() for name, classes in said.items()}
    walks = [right.pop(f"walk_{i}") for i in range(run.inference_runs)]
    results = {"test_accuracy": sum(walks) / len(walks), "test_accuracy_by_run": walks}
    steps = {name.removeprefix("steps_"): right.pop(name) for name in list(right) if name.startswith("steps_")}
    results |= right
    if run.steps and run.model.num_steps in run.steps:  # as many as it has: a walk, and no short one
        steps[str(run.model.num_steps)] = walks[0]
    results |= {"test_accuracy_by_steps": steps} if steps else {}
    if model.W.requires_grad:  # learned embeddings may move together
        distance = torch.pdist(model.W.detach())
        results["embedding_distance"] = {"smallest": distance.min().item(), "mean": distance.mean().item()}
    return results, {name: classes.cpu() for name, classes in said.items()}


def _ways(model: Model, run: Run) -> dict:
    """What is measured of a model: name -> ``predict(images, generator=...)``."""
    ways = {f"walk_{i}": model.predict for i in range(run.inference_runs)}
    ways |= {f"steps_{n}": functools.partial(model.predict, num_steps=n) for n in run.steps if n < run.model.num_steps}
    if not isinstance(model, NoPropDT):
        return ways
    ways["top_layer_accuracy"] = functools.partial(model.predict_alone, t=model.num_layers)
    if model.levels is None:  # the other way to walk
        name = "accuracy_without_noise" if model.inference_noise else "accuracy_with_noise"
        ways[name] = functools.partial(model.predict, noise=not model.inference_noise)
    return ways


def accuracy_by_class(classes: Tensor, dataset: Dataset) -> dict[str, float | None]:
    """Of the test images of every class, the share that was said to be of it: classes [M] -> class name -> share.

    None for a class without test images. Raises ValueError unless there is a class for every test image.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> accuracy_by_class(digits.test_labels, digits)["7"]
    1.0
    """
    if classes.shape != dataset.test_labels.shape:
        raise ValueError(f"expected {len(dataset.test_labels)} classes, one per test image, got {list(classes.shape)}")
    right = classes.cpu() == dataset.test_labels.cpu()
    own = [right[dataset.test_labels.cpu() == k] for k in range(dataset.num_classes)]
    return {name: one.double().mean().item() if len(one) else None for name, one in zip(dataset.class_names, own)}


# --- Files ------------------------------------------------------------------------------------------------------------


# What a file must say of a model's data for the model to be used.
TOLD = {"run": dict, "image_shape": list, "class_names": list, "num_images": int, "dataset_checksum": str}


class Loaded(NamedTuple):
    """A model from its file, the run that made it, what the file says of its data (see ``description``), the losses
    [epochs, layers] and the seconds of its training."""

    model: Model
    run: Run
    about: dict
    history: Tensor
    seconds: float


def load_trained(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The model of a checkpoint that ``run`` wrote, ready to predict. It knows its ``class_names`` and ``image_shape``.

    Raises CheckpointError where the file holds only a part of the layers (``join`` puts parts together), no such model, or
    does not say what the model was trained on.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> _ = run(plan(digits, "closed_form", {"num_steps": "2"}), digits, checkpoint="model.pt")
    >>> load_trained("model.pt").model.predict(digits.test_images[:3]).shape
    torch.Size([3])
    """
    content = checkpoints.load(path, device)
    loaded = _empty(content, path, device)
    if loaded.run.settings.layers is not None:
        raise CheckpointError(f"{path} holds layers {_named(loaded.run.settings.layers)} alone; join it with the others' files")
    checkpoints.load_state(loaded.model, content["state"], path)
    return loaded


def join(paths: Sequence[str | Path], device: torch.device | str = "cpu") -> Loaded:
    """One model from files that hold some of its layers each, trained apart.

    Raises CheckpointError where there is no file, layers are missing or come twice, a part is not trained to its end, or two
    parts are not of one run: another seed, other settings, other data.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> for t in ("1", "2"):
    ...     _ = run(plan(digits, "closed_form", {"num_steps": "2", "layers": t}), digits, checkpoint=f"{t}.pt")
    >>> join(["1.pt", "2.pt"]).model.num_layers
    2
    """
    if not paths:
        raise CheckpointError("expected at least one file to join, got none")
    contents = {str(path): checkpoints.load(path, device) for path in paths}
    if len(contents) < len(paths):
        raise CheckpointError(f"a file is named twice: {', '.join(map(str, paths))}")
    first = next(iter(contents))
    whole = _empty(contents[first], first, device)
    owner = {}
    for path, content in contents.items():
        run, about = _empty(content, path, device).run, content["about"]
        epochs = len(content["history"])
        if epochs < run.settings.epochs:
            raise CheckpointError(f"{path} is trained for {epochs} of {run.settings.epochs} epochs: go on with --resume")
        checkpoints.check_same(_without_layers(about), _without_layers(whole.about), path)
        _check_shared(content["state"], path, contents[first]["state"], first)
        for t in run.settings.layers or range(1, whole.model.num_layers + 1):
            if t in owner:
                raise CheckpointError(f"layer {t} is in both {owner[t]} and {path}; name one of them")
            owner[t] = path
    if missing := [t for t in range(1, whole.model.num_layers + 1) if t not in owner]:
        raise CheckpointError(f"nobody trained layers {_named(missing)}: give their files too")
    # What belongs to no layer, as a readout, comes from the file of layer 1.
    for path in sorted(contents, key=lambda path: owner[1] == path):
        checkpoints.load_state(whole.model, whole.model.state_dict() | contents[path]["state"], path)
    run = dataclasses.replace(whole.run, settings=dataclasses.replace(whole.run.settings, layers=None))
    parts = [contents[path] for path in sorted(contents, key=lambda path: min(t for t in owner if owner[t] == path))]
    history = torch.cat([part["history"] for part in parts], 1)
    return Loaded(whole.model, run, whole.about | {"run": as_data(run)}, history, sum(part["seconds"] for part in parts))


def _check_shared(state: dict, path: str, other: dict, first: str) -> None:
    """Raise CheckpointError where what all layers see, encoder and embeddings, is not that of the first file, up to rounding: a
    layer that was trained on other features takes these for its own, and answers at random."""
    for name in other.keys() & state.keys():
        shared = not name.startswith(("layers.", "readout.")) and other[name].is_floating_point()
        if shared and not (state[name].shape == other[name].shape and torch.allclose(state[name], other[name], 1e-3, 1e-5)):
            raise CheckpointError(
                f"{path} was trained on other features than {first}: its {name} differs, as after a fit on another kind of "
                "device; train its layers again on the kind that the others had"
            )


def save_trained(path: str | Path, loaded: Loaded) -> None:
    """Write a whole model, so that ``load_trained`` reads it. It holds no training to resume.

    >>> from noprop_helpers.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> _ = run(plan(digits, "closed_form", {"num_steps": "2"}), digits, checkpoint="solved.pt")
    >>> save_trained("copy.pt", load_trained("solved.pt"))
    >>> load_trained("copy.pt").model.num_layers
    2
    """
    told = {"about": loaded.about, "model": loaded.model.identity(), "history": loaded.history, "seconds": loaded.seconds}
    checkpoints.save(path, told | {"state": loaded.model.state_dict()})


def _empty(content: dict, path: str | Path, device: torch.device | str) -> Loaded:
    """The model that a checkpoint describes, without its weights."""
    about = content.get("about")
    if not isinstance(about, dict) or "run" not in about or "history" not in content:
        raise CheckpointError(f"{path} does not say what model it holds; build the model and call its load(path)")
    if missing := [name for name in TOLD if name not in about]:
        raise CheckpointError(f"{path} does not say its {missing[0]}: an older version wrote it; train again to use it here")
    checkpoints.expect(content, {"model": dict, "state": dict, "history": Tensor, "seconds": float}, path)
    checkpoints.expect(about, TOLD, path)
    image_shape, class_names = tuple(about["image_shape"]), tuple(about["class_names"])
    if len(image_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in image_shape):
        raise CheckpointError(f"{path} has image_shape {list(image_shape)}, expected three positive numbers")
    try:
        run = from_data(about["run"])
        model = build(run, Shape(image_shape, len(class_names), about["num_images"])).to(device).eval()
    except NoPropError as error:
        raise CheckpointError(f"{path} describes no model of this version: {error}") from None
    checkpoints.check_same(content["model"], model.identity(), path)
    model.trained_on(image_shape, class_names)
    return Loaded(model, run, about, content["history"], content["seconds"])


def _without_layers(about: dict) -> dict:
    settings = {name: value for name, value in about["run"]["settings"].items() if name != "layers"}
    return about | {"run": about["run"] | {"settings": settings}}


def _named(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
