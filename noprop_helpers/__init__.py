"""Helpers of The NoProp Book: layer-local training by denoising labels.

Each of ``schedules``, ``diffusion``, ``embeddings``, ``blocks``, ``features``, ``losses``, ``samplers`` and
``layerwise`` is one file that imports PyTorch and the standard library only: copy the one you need.
``noprop`` composes them into a model; ``python -m noprop_helpers`` trains it from a shell.
"""

__version__ = "0.1.0"
