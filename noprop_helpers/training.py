"""Training: ready recipes, one ``fit`` for all models, interruption and resumption, and the accuracy at the end."""

import random
import time
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from . import checkpoints
from .backprop import BackpropNet, NeuralODE
from .blocks import ConvBlock, ConvEncoder, DenoisingMLP, LinearReadout, RadialReadout, Standardize, TimedConvBlock
from .data import check_images
from .embeddings import gaussian, orthogonal, prototypes
from .features import PatchFeatures, encode
from .graphs import ReplayedSteps
from .layerwise import LayerStack, MLPStack, fit_stack
from .noprop import NoPropCT, NoPropDT, NoPropFM, Propagated
from .schedules import LearnedGamma, alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas

Model = NoPropDT | NoPropCT | NoPropFM | Propagated


class Recipe(NamedTuple):
    """A model with the settings that train it well."""

    model: Model
    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    one_cycle: bool = False  # rise to learning_rate and fall to 0 over the run (Smith & Topin, 2019); else constant
    optimizer: str = "adam"
    weight_decay: float = 0.0
    order: str = "together"
    feature_dropout: float = 0.0


def published(images: Tensor, num_classes: int, num_steps: int = 10, generator=None) -> Recipe:
    """The published notebook's algorithm as it is: frozen random CNN, raw pixels, squared error, linear schedule
    from 1.0, inference re-noised to alpha. Images under 10 pixels, which the notebook never met, are padded."""
    alphas = linear_alphas(num_steps)
    encoder = ConvEncoder(images.shape[1:], padding=0 if min(images.shape[2:]) >= 10 else 1)
    model = NoPropDT(
        encoder,
        [DenoisingMLP(128, num_classes, num_classes) for _ in range(num_steps)],
        torch.eye(num_classes),
        alpha_bar_from_alphas(alphas),
        objective="squared_error",
        levels=alphas,
    )
    return Recipe(model, epochs=50)


def shared(images: Tensor, num_classes: int, num_steps: int = 10, generator=None) -> Recipe:
    """One small CNN trained by all layers, and so not layer-local. Settings chosen on 10,000 held-out MNIST digits."""
    padding = 0 if min(images.shape[2:]) >= 18 else 1
    encoder = ConvEncoder(images.shape[1:], padding=padding, widths=(16, 32, 64), norm=True)
    model = NoPropDT(
        nn.Sequential(Standardize.fit(images, (0, 2, 3)), encoder),
        [DenoisingMLP(128, num_classes, num_classes, hidden_dim=128) for _ in range(num_steps)],
        torch.eye(num_classes),
        cosine_alpha_bar(num_steps),
        train_encoder=True,
        inference_noise=False,
    )
    return Recipe(model, _epochs(images, 128, at_least=5), learning_rate=8e-3, one_cycle=True)


def local(
    images: Tensor, num_classes: int, num_steps: int = 10, generator=None, features: PatchFeatures | None = None
) -> Recipe:
    """Nothing trained across layers: k-means patch features fitted without gradient, and T independent layers.

    Settings chosen on 5,000 held-out MNIST digits.
    """
    small = min(images.shape[2:]) < 20
    encoder = features or PatchFeatures.fit(
        images, num_centres=100 if small else 256, patch_size=3 if small else 6, generator=generator
    )
    feature_dim = encoder.projection.shape[1]
    model = NoPropDT(
        encoder,
        [DenoisingMLP(feature_dim, num_classes, num_classes) for _ in range(num_steps)],
        torch.eye(num_classes),
        cosine_alpha_bar(num_steps),
        inference_noise=False,
    )
    return Recipe(
        model, _epochs(images, 256, at_least=6), batch_size=256, learning_rate=4e-3, one_cycle=True, feature_dropout=0.3
    )


def _epochs(images: Tensor, batch_size: int, at_least: int) -> int:
    # ``at_least`` suffices on the 60,000 images of MNIST; a small data set needs some 600 updates as well.
    num_batches = -(-len(images) // batch_size)
    return max(at_least, -(-600 // num_batches))


PRESETS = {"published": published, "shared": shared, "local": local}


# --- The paper's models and settings ----------------------------------------------------------------------------------


EMBEDDINGS = ("one_hot", "learned", "prototype")


def label_embedding(name: str, images: Tensor, labels: Tensor, num_classes: int, generator=None) -> Tensor:
    """The paper's three tables: "one_hot" [K, K], fixed; "learned" [K, 20] and "prototype" [K, C*H*W], both trained.

    Learned ones start orthonormal where that is possible, else Gaussian; prototypes start at each class's medoid.
    """
    if name == "one_hot":
        return torch.eye(num_classes)
    if name == "learned":
        start = orthogonal if num_classes <= 20 else gaussian
        return nn.Parameter(start(num_classes, 20, generator))
    if name == "prototype":
        return nn.Parameter(prototypes(images, labels, num_classes))
    raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {name!r}")


def paper_dt(images: Tensor, W: Tensor, num_steps: int = 10, radial: bool = False) -> Recipe:
    """NoProp-DT with the paper's settings (tables 1 and 3): Figure 6 blocks, each with its own encoder, eq. 8."""
    num_classes, embed_dim = W.shape
    readout = RadialReadout(embed_dim, num_classes) if radial else LinearReadout(embed_dim, num_classes)
    model = NoPropDT(
        Standardize.fit(images, (0, 2, 3)),
        [ConvBlock(images.shape[1:], embed_dim, num_classes, _is_image_sized(W, images)) for _ in range(num_steps)],
        W,
        cosine_alpha_bar(num_steps),
        objective="elbo",
        readout=readout,
    )
    return Recipe(model, _paper_epochs(images, 150), optimizer="adamw", weight_decay=1e-3, order="layer")


def paper_ct(images: Tensor, W: Tensor, num_steps: int = 1000) -> Recipe:
    """NoProp-CT with the paper's settings: one Figure 6 block with time, a learned schedule, eta 1, 1000 Euler steps."""
    num_classes, embed_dim = W.shape
    model = NoPropCT(
        Standardize.fit(images, (0, 2, 3)),
        TimedConvBlock(images.shape[1:], embed_dim, num_classes, _is_image_sized(W, images)),
        W,
        LearnedGamma(),
        LinearReadout(embed_dim, num_classes),
        num_steps=num_steps,
    )
    return Recipe(model, _paper_epochs(images, 500 if num_classes < 100 else 1000), weight_decay=1e-3, order="layer")


def paper_fm(images: Tensor, W: Tensor, num_steps: int = 1000) -> Recipe:
    """NoProp-FM with the paper's settings: one Figure 6 block with time; a readout only where W is learned."""
    num_classes, embed_dim = W.shape
    model = NoPropFM(
        Standardize.fit(images, (0, 2, 3)),
        TimedConvBlock(images.shape[1:], embed_dim, num_classes, _is_image_sized(W, images)),
        W,
        LinearReadout(embed_dim, num_classes) if W.requires_grad else None,
        num_steps=num_steps,
    )
    return Recipe(model, _paper_epochs(images, 500 if num_classes < 100 else 1000), weight_decay=1e-3, order="layer")


def paper_backprop(images: Tensor, W: Tensor, num_steps: int = 10) -> Recipe:
    """The paper's baseline: the blocks of ``paper_dt`` in a row, trained by back-propagation through all of them."""
    num_classes, embed_dim = W.shape
    blocks = [ConvBlock(images.shape[1:], embed_dim, num_classes, _is_image_sized(W, images)) for _ in range(num_steps)]
    net = BackpropNet(blocks, W, LinearReadout(embed_dim, num_classes))
    model = Propagated(Standardize.fit(images, (0, 2, 3)), net)
    return Recipe(model, _paper_epochs(images, 150), optimizer="adamw", weight_decay=1e-3, order="layer")


def paper_adjoint(images: Tensor, W: Tensor, num_steps: int = 1000) -> Recipe:
    """The paper's continuous-time baseline: one block as a neural ODE, trained by the adjoint method of torchdiffeq."""
    try:
        from torchdiffeq import odeint_adjoint
    except ImportError:
        raise ValueError("the variant adjoint needs torchdiffeq: pip install torchdiffeq") from None
    num_classes, embed_dim = W.shape
    block = TimedConvBlock(images.shape[1:], embed_dim, num_classes, _is_image_sized(W, images))
    net = NeuralODE(block, W, LinearReadout(embed_dim, num_classes), odeint_adjoint, num_steps)
    model = Propagated(Standardize.fit(images, (0, 2, 3)), net)
    return Recipe(model, _paper_epochs(images, 500 if num_classes < 100 else 1000), weight_decay=1e-3, order="layer")


VARIANTS = {"dt": paper_dt, "ct": paper_ct, "fm": paper_fm, "backprop": paper_backprop, "adjoint": paper_adjoint}


def _is_image_sized(W: Tensor, images: Tensor) -> bool:
    return W.shape[1] == images[0].numel()


def _paper_epochs(images: Tensor, coloured: int) -> int:
    # Table 3: 100 epochs on MNIST, more on the coloured images of CIFAR-10.
    return 100 if images.shape[1] == 1 else coloured


# --- Training ---------------------------------------------------------------------------------------------------------


def fit(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    one_cycle: bool = False,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    order: str = "together",
    feature_dropout: float = 0.0,
    bf16: bool = False,
    cuda_graphs: bool = False,
    augment: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: Callable | None = None,
    after_epoch: Callable[[int], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 0.0,
    resume: bool = False,
    about: dict | None = None,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Train a model: images [N, C, H, W], labels [N] -> mean loss per epoch and layer [epochs, num_layers].

    - ``order``: "together", the layers of a NoPropDT as one stack, all at once, the fastest for small layers;
      "layer", in every epoch one layer after another, each for a pass over the data (the paper's Algorithm 1);
      "interleaved", every batch through all layers, one after another. In the last two every layer's draws depend on
      seed, epoch, batch and layer alone: with fixed embeddings both orders give the same weights, bit for bit
    - ``optimizer``: "adam" or, with decoupled weight decay, "adamw"
    - ``feature_dropout``: share of the encoder's features that is set to 0 in every batch, at random; the others grow to
      make up for it
    - ``bf16``: compute the layers in bfloat16 where PyTorch's autocast finds that safe
    - ``cuda_graphs``: on a GPU, record every layer's step once and replay it, without Python between its kernels; the same
      draws, the same training. In the last two orders, for a frozen encoder and a constant learning rate
    - ``augment``: applied to every batch of images, e.g. ``crop_and_flip``; draws from torch's global random state. In the
      last two orders only
    - ``generator``, on the images' device, orders the batches and draws the noise; its seed is what counts in the last
      two orders
    - ``progress(iterable, description)`` may wrap long loops; ``after_epoch(epoch)`` sees the updated model
    - ``checkpoint``: a file written after every epoch, or, to spare a GPU the wait for the disk, only where
      ``checkpoint_every`` seconds have passed since the last time, and after the last epoch. With ``resume``, and the same
      arguments otherwise, training goes on from it, to the same weights, bit for bit, as without the interruption (on the
      same machine)
    - ``about``: plain values to keep in the checkpoint, which a resumed run must share too
    - ``layers``: numbers, from 1, of the layers to train; None trains all. For layers that share nothing trained: they
      come out as if all had been trained here, in the order "together" up to rounding. The losses are then
      [epochs, len(layers)], and the checkpoint holds these layers alone

    A frozen encoder is run over the images once.
    """
    check_images(images, labels, len(model.W))
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    if optimizer not in ("adam", "adamw"):
        raise ValueError(f"optimizer must be adam or adamw, got {optimizer!r}")
    if order not in ("together", "layer", "interleaved"):
        raise ValueError(f"order must be together, layer or interleaved, got {order!r}")
    if order == "together" and not (isinstance(model, NoPropDT) and model.objective != "elbo"):
        raise ValueError("only the small layers of a NoPropDT can be trained together; use order='layer'")
    if augment is not None and order == "together":
        raise ValueError("augment works batch by batch; use order='layer' or 'interleaved'")
    if cuda_graphs:
        _check_graphs(model, images, order, one_cycle)
    if not 0 <= feature_dropout < 1:
        raise ValueError(f"feature_dropout must be at least 0 and below 1, got {feature_dropout}")
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to resume from")
    if layers is not None:
        _check_layers(model, layers)
    if order == "together" and model.W.requires_grad:
        raise ValueError(
            "learned embeddings are not trained together with the layers; use order='layer' or 'interleaved'"
        )
    numbers = list(layers if layers is not None else range(1, model.num_layers + 1))
    start = time.perf_counter()
    progress = progress or (lambda iterable, description: iterable)
    generator = generator or torch.Generator(images.device).manual_seed(torch.initial_seed())
    # Settings that a resumed run must share with the interrupted one.
    settings = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "one_cycle": one_cycle,
        "optimizer": optimizer, "weight_decay": weight_decay, "order": order, "bf16": bf16,
        "feature_dropout": feature_dropout, "cuda_graphs": cuda_graphs,
        "images": len(images), "seed": generator.initial_seed(), "layers": numbers, **(about or {}),
    }  # fmt: skip
    saved = checkpoints.load(checkpoint, images.device) if resume else None
    if saved is not None:
        _check_same_run(saved, settings, checkpoint)
        untrained = {name: value for name, value in model.state_dict().items() if not _belongs(name, numbers)}
        checkpoints.load_state(model, untrained | saved["state"], checkpoint)

    # What is not trained is run once; augmented images are new each time.
    encoded = not (model.train_encoder or augment)
    inputs = encode_images(model.encoder, images, progress) if encoded else images

    def features(x: Tensor) -> Tensor:
        x = x if encoded else model.encoder(augment(x) if augment else x)
        if feature_dropout:
            # One layer at a time, the global random state is what is seeded (see ``_ordered_pass``).
            draws = generator if order == "together" else None
            x = x * (torch.rand(x.shape, generator=draws, device=x.device) >= feature_dropout) / (1 - feature_dropout)
        return x

    stack = None
    if order == "together":
        together = [model.layers[t - 1] for t in numbers]
        # The hand-written stack has no bfloat16, and knows the one architecture of the presets.
        is_known = all(type(layer) is DenoisingMLP for layer in together) and not bf16
        stack = MLPStack(together) if is_known else LayerStack(together)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if stack is not None:
        parameters = [*stack.parameters(), *(p for p in model.encoder.parameters() if p.requires_grad)]
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
    stepper = kind(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True, capturable=cuda_graphs)
    num_batches = len(_batches(torch.arange(len(images)), batch_size))
    scheduler = None
    if one_cycle:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(stepper, learning_rate, total_steps=epochs * num_batches)
    # Without its cache: that would keep the bfloat16 copies of an epoch's first weights for all of the epoch.
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)

    def noised_batches(batches: list[Tensor], bar: Callable):
        for i, index in enumerate(bar(batches)):
            if i % 8 == 0:
                # Eight batches at once: on a CPU these many small calls take the time, not the numbers. The noise of all
                # layers is drawn, whichever are trained: a layer sees the same states in any company.
                group = torch.cat(batches[i : i + 8])
                states = model.noised_states(labels[group], generator)
                states = states if layers is None else states[[t - 1 for t in numbers]]
                sizes = [len(part) for part in batches[i : i + 8]]
                images_of_group = inputs.index_select(0, group)  # several times as fast as inputs[group]
                drawn = zip(images_of_group.split(sizes), states.split(sizes, 1), labels[group].split(sizes))
            x, z, y = next(drawn)
            yield features(x), z, y

    def train_on(t: int, x: Tensor, y: Tensor) -> Tensor:
        with autocast:
            loss = model.layer_loss(t, x, y).mean()
        stepper.zero_grad(set_to_none=True)  # the other layers' weights have no gradient, and so stay as they are
        loss.backward()
        stepper.step()
        return loss.detach()

    take_step = ReplayedSteps(train_on) if cuda_graphs else train_on

    def layer_step(t: int, index: Tensor, step: int) -> Tensor:
        if scheduler is not None and scheduler.last_epoch != step:  # every layer goes through a cycle of its own
            scheduler.last_epoch = step - 1
            scheduler.step()
        with autocast:
            x = features(inputs[index])
        return take_step(t, x, labels[index])

    history, before, written = [], 0.0, time.perf_counter()
    if saved is not None:
        stepper.load_state_dict(saved["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(saved["scheduler"])
        generator.set_state(saved["generator"].cpu())
        history, before = list(saved["history"].cpu()), saved["seconds"]
    for epoch in range(len(history) + 1, epochs + 1):
        model.train()
        model.encoder.train(model.train_encoder)  # a frozen encoder stays as it predicts

        def bar(steps, text=f"epoch {epoch}/{epochs}"):
            return progress(steps, text)

        if stack is not None:
            shuffled = torch.randperm(len(images), generator=generator, device=images.device)
            with autocast:
                batches = noised_batches(_batches(shuffled, batch_size), bar)
                losses = fit_stack(stack, stepper, batches, model.layer_losses, scheduler and scheduler.step)
            stack.copy_to([model.layers[t - 1] for t in numbers])
        else:
            seeds = generator.initial_seed(), epoch
            shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(_seed(*seeds)))
            batches = _batches(shuffled.to(images.device), batch_size)
            losses = _ordered_pass(layer_step, numbers, batches, order, seeds, bar)
        model.eval()
        history.append(losses)
        due = epoch == epochs or time.perf_counter() - written >= checkpoint_every
        if checkpoint is not None and due:
            trained = {name: value for name, value in model.state_dict().items() if _belongs(name, numbers)}
            state = {"state": trained, "optimizer": stepper.state_dict(), "generator": generator.get_state()}
            state |= {"scheduler": scheduler.state_dict()} if scheduler is not None else {}
            state |= {"history": torch.stack(history), "seconds": before + time.perf_counter() - start}
            checkpoints.save(checkpoint, {"settings": settings, **state})
            written = time.perf_counter()
        if after_epoch is not None:
            after_epoch(epoch)
    return torch.stack(history)


def _ordered_pass(
    layer_step: Callable, numbers: list[int], batches: list[Tensor], order: str, seeds: tuple[int, int], bar: Callable
) -> Tensor:
    """Layers over all batches, a layer and a batch at a time: the reference for all faster ways. Mean losses [len(numbers)]."""
    steps = [(t, i) for t in numbers for i in range(len(batches))]
    if order == "interleaved":
        steps.sort(key=lambda step: step[1])
    device, done = batches[0].device, (seeds[1] - 1) * len(batches)
    totals = {t: torch.zeros((), device=device) for t in numbers}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for t, i in bar(steps):
            # Dropout too draws from here: what a layer sees depends on nothing that happened before.
            torch.manual_seed(_seed(*seeds, t, i))
            totals[t] += layer_step(t, batches[i], done + i)
    return (torch.stack(list(totals.values())) / len(batches)).cpu()


def _seed(*numbers: int) -> int:
    """One seed made from several numbers, the same on every machine."""
    return random.Random(",".join(map(str, numbers))).getrandbits(62)


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Parts of ``order``, the last one shorter, but never of one sample, of which BatchNorm could make nothing."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _check_graphs(model: Model, images: Tensor, order: str, one_cycle: bool) -> None:
    if images.device.type != "cuda":
        raise ValueError(f"cuda_graphs needs model and images on a CUDA GPU, got images on {images.device}")
    if order == "together" or model.train_encoder or one_cycle:
        raise ValueError(
            "cuda_graphs needs order='layer' or 'interleaved', a frozen encoder and a constant learning rate, "
            f"got order={order!r}, train_encoder={model.train_encoder}, one_cycle={one_cycle}"
        )


def _check_layers(model: Model, layers: Sequence[int]) -> None:
    if not (isinstance(model, NoPropDT) and model.layer_local):
        raise ValueError(
            f"layers can be trained apart only where nothing is trained by several of them: {model.locality}"
        )
    if not layers or sorted(set(layers)) != list(layers) or not 1 <= min(layers) <= max(layers) <= model.num_layers:
        raise ValueError(f"expected layers in rising order out of 1 to {model.num_layers}, got {list(layers)}")


def _belongs(name: str, numbers: list[int]) -> bool:
    """Whether a name of a model's state is part of one of these layers, or of none ("layers.3.mlp.0.weight" is of layer 4)."""
    return not name.startswith("layers.") or int(name.split(".")[1]) + 1 in numbers


def _check_same_run(saved: dict, settings: dict, path) -> None:
    if saved.get("settings") is None:
        raise ValueError(f"{path} holds weights but no training to resume")
    for name, value in settings.items():
        if saved["settings"].get(name) != value:
            raise ValueError(f"{path} is from a run with {name} {saved['settings'].get(name)}; this one has {value}")


def load_trained(path: str | Path, device: str = "cpu") -> Model:
    """The model of a checkpoint that ``python -m noprop_helpers train --checkpoint`` wrote, ready to predict."""
    content = checkpoints.load(path, device)
    about, state = content.get("settings", {}), content.get("state", {})
    if "image_shape" not in about:
        raise ValueError(f"{path} does not say what model it holds; build the model and call its load(path)")
    # Only shapes count here: constants that were fitted to data are in the file.
    images, num_classes = torch.zeros(1, *about["image_shape"], device=device), len(about["class_names"])
    if about["preset"] == "paper":
        W = nn.Parameter(torch.zeros_like(state["W"])) if about["embedding"] != "one_hot" else state["W"]
        model = VARIANTS[about["variant"]](images, W).model
    elif about["preset"] == "local":
        encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        model = local(images, num_classes, features=PatchFeatures.like(encoder, len(images[0]))).model
    else:
        model = PRESETS[about["preset"]](images, num_classes).model
    checkpoints.load_state(model.to(device), state, path)
    return model.eval()


def encode_images(encoder: nn.Module, images: Tensor, progress: Callable) -> Tensor:
    """Features of a frozen encoder for all images: [N, C, H, W] -> [N, F]."""
    encoder.eval()
    return encode(encoder, images, progress=lambda chunks: progress(chunks, "features"))


def accuracy(
    model: Model, images: Tensor, labels: Tensor, generator=None, layer: int | None = None, **options
) -> float:
    """Fraction of images classified correctly, by the whole model or by one ``layer`` alone.

    ``options`` go to the model's ``predict``: ``noise`` for a chain, ``num_steps`` and ``sampler`` for a flow.
    """
    check_images(images, labels, len(model.W))
    correct = 0
    # The layers of a chain see every image anew and like it in the cache; a flow makes many small steps on its features.
    batch_size = 200 if isinstance(model, NoPropDT) else 1000
    for x, y in zip(images.split(batch_size), labels.split(batch_size)):
        predicted = (
            model.predict(x, generator, **options) if layer is None else model.predict_alone(x, layer, generator)
        )
        correct += int((predicted == y).sum())
    return correct / len(labels)
