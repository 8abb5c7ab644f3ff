"""What configures a training run: one frozen dataclass, and how to change any field of one from text."""

import dataclasses
import numbers
from typing import Any

import torch

from . import NoPropError
from .benchmark import computes_bfloat16

ORDERS = ("together", "layer", "interleaved", "solved")
OPTIMIZERS = ("adam", "adamw")
PRECISIONS = ("float32", "bfloat16", "auto")
_KINDS = {int: numbers.Integral, float: numbers.Real, bool: bool, str: str}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a model is trained. Every draw of a run follows from ``seed`` and the numbers of epoch, batch and layer.

    - ``epochs``: passes over the training data; ``batch_size``: images a step
    - ``learning_rate``: of Adam; ``one_cycle``: rise to it and fall to 0 over the run, while Adam's first-moment decay goes
      from 0.95 to 0.85 and back (Smith & Topin, arXiv:1708.07120); without it both stay constant
    - ``optimizer``: "adam" or, with decoupled ``weight_decay``, "adamw"
    - ``order``: "together", the small layers of a NoPropDT as one stack, all at once; "layer", in every epoch one layer
      after another, each for a pass over the data (the paper's Algorithm 1); "interleaved", every batch through all layers,
      one after another; with fixed embeddings these two give the same weights, bit for bit. "solved", without training:
      linear layers with squared error, by their normal equations, ``weight_decay`` their ridge in units of the features'
      mean variance; one pass, ``batch_size`` images at a time
    - ``feature_dropout``: share of the encoder's features that is set to 0 in every batch, at random; the others grow to
      make up for it
    - ``augment``: crop and mirror every batch of images at random (``augment.crop_and_flip``)
    - ``precision``: "float32"; "bfloat16", the layers compute in it where PyTorch's autocast finds that safe; "auto",
      bfloat16 where the device computes it in hardware, else float32
    - ``cuda_graphs``: on a GPU, record every layer's step once and replay it, without Python between its kernels: the same
      draws, the same training. Elsewhere it changes nothing
    - ``layers``: numbers, from 1, of the layers to train; None trains all. Layers that share nothing trained come out as if
      all had been trained here, in the order "together" up to rounding and to the draws of dropout inside the layers
    - ``seed``: orders the batches and draws the noise

    Raises NoPropError where a value is not one of these.

    >>> Settings(epochs=3, order="layer").learning_rate
    0.001
    """

    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 1e-3
    one_cycle: bool = False
    optimizer: str = "adam"
    weight_decay: float = 0.0
    order: str = "together"
    feature_dropout: float = 0.0
    augment: bool = False
    precision: str = "float32"
    cuda_graphs: bool = False
    layers: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self):
        self._check_types()
        for name, choices in (("optimizer", OPTIMIZERS), ("order", ORDERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise NoPropError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.batch_size >= 2**31:
            raise NoPropError(f"batch_size must be below 2**31, got {self.batch_size}")
        if self.epochs < 1 or self.batch_size < 1:
            raise NoPropError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.weight_decay < float("inf"):
            raise NoPropError(
                "expected a finite learning_rate above 0 and weight_decay of at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        if not 0 <= self.feature_dropout < 1:
            raise NoPropError(f"feature_dropout must be at least 0 and below 1, got {self.feature_dropout}")
        if not 0 <= self.seed < 2**63:  # what torch's generators take
            raise NoPropError(f"seed must be at least 0 and below 2**63, got {self.seed}")
        if self.layers is not None and (not self.layers or list(self.layers) != sorted({t for t in self.layers if t > 0})):
            raise NoPropError(f"layers must be numbers from 1, in rising order, got {list(self.layers)}")
        if self.augment and self.order not in ("layer", "interleaved"):
            raise NoPropError("augment works batch by batch: it needs order layer or interleaved")
        if self.order == "solved" and (self.epochs != 1 or self.feature_dropout or self.weight_decay == 0):
            raise NoPropError(
                "order solved takes one pass over all features, and a ridge: epochs 1, feature_dropout 0 and weight_decay "
                f"above 0, got {self.epochs}, {self.feature_dropout} and {self.weight_decay}"
            )

    def _check_types(self) -> None:
        """A text or a half would otherwise be found in the middle of the training, or not at all."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), _KINDS.get(field.type)
            if kind and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
                raise NoPropError(f"{field.name} must be of type {field.type.__name__}, got {value!r}")
            if kind and type(value) not in (int, float, bool, str):  # NumPy's numbers, which no file of weights may hold
                object.__setattr__(self, field.name, field.type(value))
        whole = self.layers is None or isinstance(self.layers, (tuple, list)) and all(type(t) is int for t in self.layers)
        if not whole:
            raise NoPropError(f"layers must be None or a tuple of numbers from 1, got {self.layers!r}")

    def on(self, device: torch.device | str) -> "Settings":
        """These settings with "auto" replaced by what the device computes in hardware."""
        if self.precision != "auto":
            return self
        return dataclasses.replace(self, precision="bfloat16" if computes_bfloat16(device) else "float32")


def changed(value: Any, texts: dict[str, str]) -> Any:
    """A frozen dataclass with some fields replaced by values read from text, as ``{"epochs": "3"}``.

    A text is read as the type of the field's own value: int, float, bool ("true", "false") or str; layers as "1-5" or "1,3".
    Raises NoPropError for a field that does not exist and a text that does not fit.

    >>> changed(Settings(), {"epochs": "3", "layers": "1-2", "one_cycle": "true"}).layers
    (1, 2)
    """
    fields = {field.name: field.type for field in dataclasses.fields(value)}
    for name in texts:
        if name not in fields:
            raise NoPropError(f"there is no setting {name!r}; choose one of {', '.join(fields)}")
    return dataclasses.replace(value, **{name: _read(name, text, fields[name]) for name, text in texts.items()})


def layer_numbers(text: str) -> tuple[int, ...]:
    """Layers named as "1-5", "3" or "1,4-6" -> (1, 4, 5, 6).

    Raises NoPropError on a text that names none.

    >>> layer_numbers("1,4-6")
    (1, 4, 5, 6)
    """
    if not isinstance(text, str):
        raise NoPropError(f"expected layers such as 1-5 or 1,3, got {text!r}")
    try:
        parts = [part.partition("-") for part in text.split(",")]
        ranges = [range(int(first), int(last if dash else first) + 1) for first, dash, last in parts]
    except ValueError:
        ranges = [()]
    if not all(ranges) or max(numbers[-1] for numbers in ranges) > 1_000_000:
        raise NoPropError(f"expected layers such as 1-5 or 1,3, got {text!r}")
    return tuple(t for numbers in ranges for t in numbers)


def _read(name: str, text: str, kind: Any) -> Any:
    """A field's value from its text, by the field's own type."""
    text = str(text)  # a number is as good
    readers = {int: int, float: float, str: str, bool: {"true": True, "false": False}.__getitem__}
    try:
        return readers.get(kind, layer_numbers)(text)
    except (ValueError, KeyError) as error:
        if isinstance(error, NoPropError):
            raise
        expected = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise NoPropError(f"{name}: expected {expected}, got {text!r}") from None
