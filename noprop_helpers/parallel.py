"""Processes of one launcher, as torchrun starts them: who am I, and the one exchange at the end.

Layers that share nothing need no launcher: ``train --layers 1-5`` here, ``train --layers 6-10`` there, ``join`` in the end.
Where a launcher starts the processes all the same, each learns from its environment variables which layers are its own, and
no process group exists before all are trained.
"""

import datetime
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist

from . import NoPropError
from .layerwise import layers_for_rank
from .noprop import NoPropDT


def this_process() -> tuple[int, int]:
    """(rank, world_size) from torchrun's environment variables; (0, 1) where there is no WORLD_SIZE.

    Raises NoPropError now, before hours of training, where they would not do at its end.

    >>> this_process()  # started alone
    (0, 1)
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if given["WORLD_SIZE"] in (None, "1"):
        return 0, 1
    try:
        rank, world_size, port = int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["MASTER_PORT"])
    except (TypeError, ValueError):
        rank = world_size = port = -1
    if not (0 <= rank < world_size and 0 < port < 65536 and given["MASTER_ADDR"]):
        raise NoPropError(f"expected torchrun's variables in the environment, with RANK < WORLD_SIZE, got {given}")
    return rank, world_size


def check_host(name: str) -> None:
    """Raise NoPropError now, before hours of training and a day of waiting, where MASTER_ADDR is the name of no host.

    >>> check_host("127.0.0.1")
    """
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        raise NoPropError(f"MASTER_ADDR: expected the name of a host, got {name!r}") from None


def rank_file(checkpoint: str | Path, rank: int, world_size: int) -> Path:
    """Where process ``rank`` keeps its layers: CHECKPOINT.rank0of2.

    >>> rank_file("model.pt", rank=0, world_size=2).name
    'model.pt.rank0of2'
    """
    return Path(f"{checkpoint}.rank{rank}of{world_size}")


def gather_layers(model: NoPropDT, rank: int, world_size: int) -> None:
    """After training, give every process all layers, each from the one that trained it: the only communication there is.

    Waits for the slowest process. A readout, which no layer sees, comes from the process of layer 1. Raises NoPropError, in
    every process, where they have fitted different encoders, or cannot meet.

    >>> from noprop_helpers.blocks import DenoisingMLP
    >>> from noprop_helpers.schedules import cosine_alpha_bar
    >>> layers = [DenoisingMLP(4, 2, 2) for _ in range(3)]
    >>> model = NoPropDT(torch.nn.Flatten(), layers, torch.eye(2), cosine_alpha_bar(3))
    >>> rank, world_size = this_process()
    >>> if world_size > 1:
    ...     gather_layers(model, rank, world_size)
    """
    device = model.W.device
    enough = device.type == "cuda" and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    parts = [(layer, t) for t, layer in enumerate(model.layers, start=1)]
    parts += [(model.readout, 1)] if model.readout is not None else []
    owners = {t: r for r in range(world_size) for t in layers_for_rank(model.num_layers, r, world_size)}
    try:
        dist.init_process_group(
            "nccl" if enough else "gloo", rank=rank, world_size=world_size, timeout=datetime.timedelta(days=1)
        )
    except RuntimeError as error:  # a port that is taken, a host that does not answer
        raise NoPropError(f"the processes cannot meet: {str(error).splitlines()[0]}") from None
    try:
        _check_same_encoder(model, enough)
        for module, t in parts:
            for tensor in module.state_dict().values():  # shares memory with the module
                packed = tensor.contiguous() if enough else tensor.cpu().contiguous()
                dist.broadcast(packed, src=owners[t])
                tensor.copy_(packed)
    finally:
        dist.destroy_process_group()


def _check_same_encoder(model: NoPropDT, on_device: bool) -> None:
    """Raise NoPropError, in every process, where one has fitted other features than the first: its layers fit no other's."""
    alike = torch.ones((), device=model.W.device if on_device else "cpu")
    for tensor in model.encoder.state_dict().values():
        own = tensor.contiguous() if on_device else tensor.cpu().contiguous()
        first = own.clone()
        dist.broadcast(first, src=0)
        alike *= torch.allclose(own.double(), first.double(), 1e-3, 1e-5)
    dist.all_reduce(alike, dist.ReduceOp.MIN)
    if not alike:
        raise NoPropError("the processes have fitted different encoders: run all on one kind of device")
