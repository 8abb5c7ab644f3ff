"""Layers in parallel: every process trains its own layers, and says nothing to the others before all are done.

Start as many processes as you like; each learns from torchrun's environment variables which of them it is:

    torchrun --nproc-per-node 2 -m noprop_helpers train --dataset mnist --preset paper --checkpoint run.pt

No process group exists while layers are trained. A process that dies costs its own layers alone: the others finish, keep
their files, and wait for it to come back.
"""

import datetime
import os
from pathlib import Path
from typing import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from . import checkpoints
from .layerwise import layers_for_rank
from .noprop import NoPropDT
from .training import fit


def this_process() -> tuple[int, int]:
    """(rank, world_size) from torchrun's environment variables; (0, 1) where there is no WORLD_SIZE.

    Raises ValueError now, before hours of training, where they would not do at its end.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if given["WORLD_SIZE"] in (None, "1"):
        return 0, 1
    try:
        rank, world_size, port = int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["MASTER_PORT"])
    except (TypeError, ValueError):
        rank = world_size = port = -1
    if not (0 <= rank < world_size and 0 < port < 65536 and given["MASTER_ADDR"]):
        raise ValueError(f"expected torchrun's variables in the environment, with RANK < WORLD_SIZE, got {given}")
    return rank, world_size


def rank_file(checkpoint: str | Path, rank: int, world_size: int) -> Path:
    """Where process ``rank`` keeps its layers: CHECKPOINT.rank0of2."""
    return Path(f"{checkpoint}.rank{rank}of{world_size}")


def fit_rank(
    model: NoPropDT,
    images: Tensor,
    labels: Tensor,
    rank: int,
    world_size: int,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    **settings,
) -> Tensor:
    """Train this process's layers, as ``fit`` would train them: -> mean loss per epoch and own layer [epochs, layers].

    Every process builds the same model from the same seed. Its checkpoint is ``rank_file(checkpoint, ...)``; with
    ``resume`` it goes on from that file where there is one, else from the start. Raises ValueError for a model in which
    several layers train something together.
    """
    own = layers_for_rank(model.num_layers, rank, world_size)
    if not own:  # more processes than layers
        return torch.zeros(settings["epochs"], 0)
    file = None if checkpoint is None else rank_file(checkpoint, rank, world_size)
    resume = resume and file is not None and file.exists()
    return fit(model, images, labels, **settings, checkpoint=file, resume=resume, layers=own)


def gather_layers(model: NoPropDT, rank: int, world_size: int) -> None:
    """After training, give every process all layers, each from the one that trained it: the only communication there is.

    Waits for the slowest process. A readout, which no layer sees, comes from the process of layer 1.
    """
    device = model.W.device
    enough = device.type == "cuda" and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    parts = [(layer, t) for t, layer in enumerate(model.layers, start=1)]
    parts += [(model.readout, 1)] if model.readout is not None else []
    owners = {t: r for r in range(world_size) for t in layers_for_rank(model.num_layers, r, world_size)}
    dist.init_process_group(
        "nccl" if enough else "gloo", rank=rank, world_size=world_size, timeout=datetime.timedelta(days=1)
    )
    try:
        for module, t in parts:
            for tensor in module.state_dict().values():  # shares memory with the module
                packed = tensor.contiguous() if enough else tensor.cpu().contiguous()
                dist.broadcast(packed, src=owners[t])
                tensor.copy_(packed)
    finally:
        dist.destroy_process_group()


def load_layers(model: NoPropDT, files: Sequence[str | Path]) -> list[int]:
    """Take over the layers that these rank files hold, and leave the others as they are: -> their numbers, from 1.

    For what survived where a process did not. A readout comes from the file of the lowest layer.
    """
    contents = [(checkpoints.load(file, model.W.device), file) for file in files]
    for content, file in contents:
        if "layers" not in content.get("settings", {}):
            raise ValueError(f"{file} does not say which layers it holds; expected a file that fit_rank wrote")
    contents.sort(key=lambda pair: pair[0]["settings"]["layers"], reverse=True)
    for content, file in contents:
        checkpoints.load_state(model, model.state_dict() | content["state"], file)
    return sorted(t for content, _ in contents for t in content["settings"]["layers"])
