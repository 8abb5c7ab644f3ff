"""The hostile table: what a user of the package's functions may do to it, and the outcome that it must have.

A row is (what is done, how, outcome). The outcome is a tuple of words that stand in the one line of a ``ValueError`` or
``TypeError`` of our own, or a function of the result that says whether it is right. ``test_hostile_api`` runs all rows, each
in an empty folder. Nothing here is a mistake that needs bad will: a number as text, a NaN, an empty batch, one layer twice.
"""

import dataclasses
import functools
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Callable, NamedTuple

import numpy
import torch
from PIL import Image
from torch import nn

from noprop_helpers import augment, backprop, benchmark, blocks, diffusion, embeddings, features, losses, samplers, schedules
from noprop_helpers import checkpoints, data, images, layerwise, passes, recipes, runs, settings, training
from noprop_helpers.fast_stack import MLPStack
from noprop_helpers.graphs import ReplayedSteps
from noprop_helpers.noprop import NoPropCT, NoPropDT, NoPropFM, Propagated, evaluating, probability_flow
from noprop_helpers.normal_equations import Moments, denoiser_at, ridge_regression
from noprop_helpers.settings import Settings


class Row(NamedTuple):
    """What is done, as words and as a call, and its outcome: words of one line, or a look at the result."""

    what: str
    do: Callable[[], object]
    outcome: tuple[str, ...] | Callable[[object], bool]


NAN, INF = float("nan"), float("inf")
EYE = torch.eye(3)
T = torch.tensor


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def same(value):
    return lambda result: torch.allclose(torch.as_tensor(result), torch.as_tensor(value), atol=1e-6)


def has_shape(*shape):
    return lambda result: tuple(result.shape) == shape and bool(torch.isfinite(result.double()).all())


def plain(result):
    return result is None


# --- Schedules, noise, embeddings, losses, samplers -------------------------------------------------------------------

SCHEDULES = [
    Row("linear schedule of no step", lambda: schedules.linear_alphas(0), ("num_steps", "integer >= 1", "got 0")),
    Row("linear schedule of minus three steps", lambda: schedules.linear_alphas(-3), ("num_steps", "got -3")),
    Row("linear schedule of two and a half steps", lambda: schedules.linear_alphas(2.5), ("num_steps", "integer", "got 2.5")),
    Row("linear schedule of '10' steps", lambda: schedules.linear_alphas("10"), ("num_steps", "integer", "got '10'")),
    Row("linear schedule of True steps", lambda: schedules.linear_alphas(True), ("num_steps", "got True")),
    Row("linear schedule of one step", lambda: schedules.linear_alphas(1, 0.5, 0.5), same(T([0.5]).double())),
    Row("linear schedule, start as text", lambda: schedules.linear_alphas(4, start="1.0"), ("start", "number", "got '1.0'")),
    Row("linear schedule, NaN as end", lambda: schedules.linear_alphas(4, end=NAN), ("end", "(0, 1]", "got nan")),
    Row("alphas as text", lambda: schedules.alpha_bar_from_alphas("0.5"), ("alphas", "numbers", "'0.5'")),
    Row("no alphas", lambda: schedules.alpha_bar_from_alphas(T([])), ("alphas", "T >= 1", "[0]")),
    Row("None as alphas", lambda: schedules.alpha_bar_from_alphas(None), ("alphas", "numbers", "None")),
    Row("a NaN alpha", lambda: schedules.alpha_bar_from_alphas(T([0.5, NAN])), ("alpha", "(0, 1]", "nan")),
    Row("alphas in half precision",
        lambda: schedules.alpha_bar_from_alphas(T([0.5, 0.5]).half()), same(T([1, 0.5, 0.25]).double())),
    Row("alphas as a list", lambda: schedules.alpha_bar_from_alphas([0.5, 0.5]), same(T([1, 0.5, 0.25]).double())),
    Row("alphas as a numpy array", lambda: schedules.alpha_bar_from_alphas(numpy.array([0.5])), same(T([1, 0.5]).double())),
    Row("alphas as integers", lambda: schedules.alpha_bar_from_alphas(T([2, 1])), ("(0, 1]", "[2.0, 1.0]")),
    Row("complex alphas", lambda: schedules.alpha_bar_from_alphas(T([0.5j])), ("alphas", "numbers", "complex")),
    Row("cosine schedule with a NaN offset", lambda: schedules.cosine_alpha_bar(4, offset=NAN), ("offset", "nan")),
    Row("cosine schedule with an infinite offset", lambda: schedules.cosine_alpha_bar(4, offset=INF), ("offset", "inf")),
    Row("cosine schedule with an offset that leaves no cosine",
        lambda: schedules.cosine_alpha_bar(4, offset=1e300), ("offset", "1e+300")),
    Row("cosine schedule with its ends swapped",
        lambda: schedules.cosine_alpha_bar(4, clean_end=0.1, noise_end=0.9), ("noise_end < clean_end",)),
    Row("cosine schedule with a noise end of 0", lambda: schedules.cosine_alpha_bar(4, noise_end=0.0), ("noise_end", "0.0")),
    Row("cosine schedule with an end as text",
        lambda: schedules.cosine_alpha_bar(4, clean_end="1"), ("clean_end", "number", "'1'")),
    Row("cosine schedule of one step", lambda: schedules.cosine_alpha_bar(1), same(T([0.9999, 1e-4]).double())),
    Row("alpha_bar that rises", lambda: schedules.posterior_coefficients(T([0.9, 0.1, 0.5])), ("never increase",)),
    Row("alpha_bar with NaN", lambda: schedules.posterior_coefficients(T([0.9, NAN])), ("(0, 1]", "nan")),
    Row("alpha_bar of one entry", lambda: schedules.posterior_coefficients(T([1.0])), ("T + 1 >= 2", "[1]")),
    Row("alpha_bar as a matrix", lambda: schedules.snr_weights(torch.ones(2, 2)), ("vector", "[2, 2]")),
    Row("alpha_bar as text", lambda: schedules.alphas_from_alpha_bar("cosine"), ("alpha_bar", "numbers", "'cosine'")),
    Row("SNR of 1.5", lambda: schedules.snr(T([1.5])), ("[0, 1]", "1.5")),
    Row("SNR of NaN", lambda: schedules.snr(T([NAN])), ("[0, 1]", "nan")),
    Row("SNR of an integer", lambda: schedules.snr(0), same(0.0)),
    Row("learned schedule with its ends swapped", lambda: schedules.LearnedGamma(5.0, -5.0), ("gamma_0 < gamma_1",)),
    Row("learned schedule with an infinite end", lambda: schedules.LearnedGamma(-5.0, INF), ("finite", "inf")),
    Row("learned schedule with a NaN end", lambda: schedules.LearnedGamma(NAN, 5.0), ("gamma_0 < gamma_1", "nan")),
    Row("learned schedule with ends as text", lambda: schedules.LearnedGamma("-5", "5"), ("gamma_0", "'-5'")),
    Row("learned schedule without hidden units", lambda: schedules.LearnedGamma(hidden_dim=0), ("hidden_dim", "got 0")),
]

NOISE = [
    Row("noise of another batch", lambda: diffusion.q_sample(EYE, 0.5, torch.randn(2, 3)), ("[3, 3]", "[2, 3]")),
    Row("noise for one label of three", lambda: diffusion.q_sample(EYE, 0.5, torch.randn(3, 1)), ("[3, 1]",)),
    Row("alpha_bar 1.5", lambda: diffusion.q_sample(EYE, 1.5, torch.randn(3, 3)), ("[0, 1]", "1.5")),
    Row("alpha_bar NaN", lambda: diffusion.q_sample(EYE, NAN, torch.randn(3, 3)), ("[0, 1]", "nan")),
    Row("alpha_bar as text", lambda: diffusion.q_sample(EYE, "0.5", torch.randn(3, 3)), ("alpha_bar_t", "'0.5'")),
    Row("integer labels in place of embeddings", lambda: diffusion.q_sample(EYE.long(), 0.5, torch.randn(3, 3)),
        ("floating", "int64")),
    Row("noise in double precision", lambda: diffusion.q_sample(EYE, 0.5, torch.randn(3, 3).double()), ("float64", "float32")),
    Row("noise of no sample", lambda: diffusion.q_sample(EYE[:0], 0.5, torch.randn(0, 3)), has_shape(0, 3)),
    Row("noise of one sample", lambda: diffusion.q_sample(EYE[:1], 0.25, torch.zeros(1, 3)), same(EYE[:1] / 2)),
    Row("noise that is no contiguous block", lambda: diffusion.q_sample(EYE, 0.25, torch.zeros(3, 6)[:, ::2]), same(EYE / 2)),
    Row("labels as numbers", lambda: diffusion.q_sample(torch.tensor([1.0, 2.0]), 0.5, torch.randn(2)), ("[B, D]",)),
    Row("denoiser: W of another D",
        lambda: diffusion.ideal_denoiser(EYE, 0.5, torch.eye(2), torch.zeros(2)), ("z_t", "[2, 2]")),
    Row("denoiser at alpha_bar 1", lambda: diffusion.ideal_denoiser(EYE, 1.0, EYE, torch.zeros(3)), ("[0, 1)", "1.0")),
    Row("denoiser: double states", lambda: diffusion.ideal_denoiser(EYE.double(), 0.5, EYE, torch.zeros(3)), ("float64",)),
    Row("denoiser: alpha_bar as text",
        lambda: diffusion.ideal_denoiser(EYE, "half", EYE, torch.zeros(3)), ("alpha_bar_t", "half")),
    Row("denoiser: a level of 64 bits",
        lambda: diffusion.ideal_denoiser(EYE.double(), 0.4, EYE.double(), torch.zeros(3).double())[0, 0],
        lambda p: abs(p.item() - 1 / (1 + 2 * math.exp(-(0.4**0.5) / 0.6))) < 1e-14),
    Row("flow at a time of 64 bits",
        lambda: diffusion.flow_path(EYE.double(), 0.1, EYE.double() * 0).z[0, 0], lambda z: z.item() == 0.9),
    Row("divergence at a level of 64 bits", lambda: diffusion.kl_to_prior(EYE.double(), 0.1)[0],
        lambda kl: abs(kl.item() - 0.5 * (3 * (-math.log1p(-0.1) - 0.1) + 0.1)) < 1e-15),
    Row("denoiser: a label is impossible", lambda: diffusion.ideal_denoiser(EYE, 0.5, EYE, T([-INF, 0.0, 0.0]))[:, 0],
        same(torch.zeros(3))),
    Row("denoiser: all labels impossible", lambda: diffusion.ideal_denoiser(EYE, 0.5, EYE, T([-INF] * 3)), ("log_prior",)),
    Row("flow at time 2", lambda: diffusion.flow_path(EYE, 2.0, torch.randn(3, 3)), ("[0, 1]", "2")),
    Row("flow at time NaN", lambda: diffusion.flow_path(EYE, NAN, torch.randn(3, 3)), ("[0, 1]", "nan")),
    Row("flow: a time too few", lambda: diffusion.flow_path(EYE, torch.rand(2), torch.randn(3, 3)), ("[B]", "[2]")),
    Row("flow: a jitter per sample", lambda: diffusion.flow_path(EYE, 0.5, torch.randn(3, 3), torch.randn(3, 1)),
        ("jitter", "[3, 1]")),
    Row("flow of integers", lambda: diffusion.flow_path(EYE.long(), 0.5, EYE.long()), ("floating", "int64")),
    Row("chain of integers", lambda: diffusion.forward_chain(EYE.long(), T([0.5])), ("floating", "int64")),
    Row("chain with alpha 0", lambda: diffusion.forward_chain(EYE, T([0.5, 0.0])), ("(0, 1]",)),
    Row("chain without steps", lambda: diffusion.forward_chain(EYE, T([])), ("T >= 1",)),
    Row("chain with text", lambda: diffusion.forward_chain(EYE, "0.9"), ("alphas", "'0.9'")),
    Row("chain from a seed", lambda: diffusion.forward_chain(EYE, T([0.5]), 7), ("torch.Generator", "7")),
    Row("divergence at alpha_bar 1", lambda: diffusion.kl_to_prior(EYE, 1.0), ("[0, 1)",)),
    Row("divergence of integers", lambda: diffusion.kl_to_prior(EYE.long(), 0.5), ("floating", "int64")),
    Row("divergence at all levels at once", lambda: diffusion.kl_to_prior(EYE, T([0.5, 0.5, 0.5])), ("one alpha_bar_T",)),
]

EMBEDDINGS = [
    Row("one-hot: labels as floats", lambda: embeddings.one_hot(T([1.0]), 3), ("int64", "float32")),
    Row("one-hot: labels as int32", lambda: embeddings.one_hot(T([1]).int(), 3), ("int64", "int32")),
    Row("one-hot: a label too large", lambda: embeddings.one_hot(T([3]), 3), ("0..2", "3")),
    Row("one-hot: a label of -1", lambda: embeddings.one_hot(T([-1]), 3), ("0..2", "-1")),
    Row("one-hot: no labels", lambda: embeddings.one_hot(T([], dtype=torch.int64), 3), has_shape(0, 3)),
    Row("one-hot: labels as a list", lambda: embeddings.one_hot([1, 2], 3), ("labels", "list")),
    Row("one-hot: of no class", lambda: embeddings.one_hot(T([], dtype=torch.int64), 0), ("num_classes", "0")),
    Row("one-hot: of '3' classes", lambda: embeddings.one_hot(T([1]), "3"), ("num_classes", "'3'")),
    Row("one-hot: of one class", lambda: embeddings.one_hot(T([0, 0]), 1), same(torch.ones(2, 1))),
    Row("random table of no class", lambda: embeddings.gaussian(0, 5), ("num_classes", "0")),
    Row("random table of -1 classes", lambda: embeddings.gaussian(-1, 5), ("num_classes", "-1")),
    Row("random table of no dimension", lambda: embeddings.gaussian(3, 0), ("embed_dim", "0")),
    Row("random table from a seed", lambda: embeddings.gaussian(3, 5, 0), ("torch.Generator", "0")),
    Row("orthogonal rows, more than dimensions", lambda: embeddings.orthogonal(5, 3), ("embed_dim >= 5", "3")),
    Row("orthogonal rows of no class", lambda: embeddings.orthogonal(0, 3), ("num_classes", "0")),
    Row("orthogonal rows as text", lambda: embeddings.orthogonal("3", 5), ("num_classes", "'3'")),
    Row("orthogonal rows of one class", lambda: embeddings.orthogonal(1, 1).abs(), same(torch.ones(1, 1))),
    Row("prototypes of integers",
        lambda: embeddings.prototypes((rand(3, 1, 2, 2) * 9).byte(), T([0, 1, 2]), 3), ("floating", "uint8")),
    Row("prototypes of NaN images",
        lambda: embeddings.prototypes(torch.full((3, 1, 2, 2), NAN), T([0, 1, 2]), 3), ("finite",)),
    Row("prototypes with labels beyond the classes",
        lambda: embeddings.prototypes(rand(3, 1, 2, 2), T([0, 1, 2]), 2), ("0..1", "2")),
    Row("prototypes of no class", lambda: embeddings.prototypes(rand(3, 1, 2, 2), T([0, 0, 0]), 0), ("num_classes", "0")),
    Row("prototypes of a class without images",
        lambda: embeddings.prototypes(rand(2, 1, 2, 2), T([0, 2]), 3), ("class 1", "no image")),
    Row("prototypes of flat images", lambda: embeddings.prototypes(rand(3, 4), T([0, 1, 2]), 3), ("[N, C, H, W]",)),
    Row("nearest class: another D", lambda: embeddings.nearest_class(rand(2, 3), rand(3, 2)), ("one D", "[2, 3]")),
    Row("nearest class of NaN", lambda: embeddings.nearest_class(T([[NAN, 0.0, 0.0]]), EYE), ("finite",)),
    Row("nearest class with NaN in W", lambda: embeddings.nearest_class(EYE, EYE * NAN), ("finite",)),
    Row("nearest class in double precision", lambda: embeddings.nearest_class(EYE.double(), EYE), ("float64",)),
    Row("nearest class of no state", lambda: embeddings.nearest_class(rand(0, 3), EYE), has_shape(0)),
    Row("nearest of one class", lambda: embeddings.nearest_class(rand(2, 3), EYE[:1]), same(T([0, 0]))),
    Row("distribution of NaN", lambda: embeddings.nearest_distribution(T([[NAN, 0.0, 0.0]]), EYE), ("finite",)),
    Row("distribution over one class", lambda: embeddings.nearest_distribution(rand(2, 3), EYE[:1]), same(torch.ones(2, 1))),
    Row("distribution of no state", lambda: embeddings.nearest_distribution(rand(0, 3), EYE), has_shape(0, 3)),
    Row("distribution of a huge state", lambda: embeddings.nearest_distribution(T([[1e30, 0.0, 0.0]]), EYE), same(EYE[:1])),
]

LOSSES = [
    Row("a target of one column", lambda: losses.squared_error(rand(4, 3), rand(4, 1)), ("[4, 1]", "[4, 3]")),
    Row("a target of no column", lambda: losses.squared_error(rand(4, 0), rand(4, 0)), ("D >= 1",)),
    Row("an empty batch", lambda: losses.squared_error(rand(0, 3), rand(0, 3)), has_shape(0)),
    Row("one sample", lambda: losses.squared_error(torch.ones(1, 2), torch.zeros(1, 2)), same([1.0])),
    Row("every second column", lambda: losses.squared_error(torch.ones(2, 6)[:, ::2], torch.zeros(2, 3)), same([1.0, 1.0])),
    Row("a gradient of other shapes", lambda: losses.squared_error_gradient(rand(4, 3), rand(3, 3)), ("[3, 3]", "[4, 3]")),
    Row("weights of another number of layers", lambda: losses.dt_loss(rand(2, 4, 3), rand(4, 3), torch.ones(3), 2),
        ("snr_weight", "[3]")),
    Row("a weight as text", lambda: losses.dt_loss(rand(4, 3), rand(4, 3), "4", 2), ("snr_weight", "'4'")),
    Row("one rate for all", lambda: losses.ct_loss(rand(4, 3), rand(4, 3), T(1.0)), ("snr_rate", "[4]")),
    Row("velocities of another batch", lambda: losses.fm_loss(rand(4, 3), rand(2, 3)), ("v_hat", "[2, 3]")),
    Row("labels as floats", lambda: losses.readout_loss(rand(2, 3), T([0.0, 1.0])), ("int64", "float32")),
    Row("labels as one-hot rows", lambda: losses.readout_loss(rand(3, 3), EYE), ("labels [B]", "[3, 3]")),
    Row("a label too large", lambda: losses.readout_loss(rand(2, 3), T([0, 3])), ("0..2", "3")),
    Row("a label of -1", lambda: losses.readout_loss(rand(2, 3), T([0, -1])), ("0..2", "-1")),
    Row("a gradient of a label too large", lambda: losses.readout_loss_gradient(rand(2, 3), T([0, 3])), ("0..2", "3")),
    Row("a gradient of a label of -1", lambda: losses.readout_loss_gradient(rand(2, 3), T([0, -1])), ("0..2", "-1")),
    Row("a gradient of boolean labels", lambda: losses.readout_loss_gradient(rand(2, 3), T([True, False])), ("int64", "bool")),
    Row("scores of one class", lambda: losses.readout_loss(rand(2, 1), T([0, 0])), same([0.0, 0.0])),
    Row("scores of 1e30", lambda: losses.readout_loss(T([[1e30, 0.0]]), T([0])), same([0.0])),
    Row("an empty batch of scores", lambda: losses.readout_loss(rand(0, 3), T([], dtype=torch.int64)), has_shape(0)),
]

A = T([1.0, 0.5])
SAMPLERS = [
    Row("tables of two lengths", lambda: samplers.sample_posterior(lambda t, z: z, EYE, A, A, A[:1]), ("one shape [T]",)),
    Row("no layer", lambda: samplers.sample_posterior(lambda t, z: z, EYE, A[:0], A[:0], A[:0]), ("T >= 1",)),
    Row("NaN in a table", lambda: samplers.sample_posterior(lambda t, z: z, EYE, A * NAN, A, A), ("finite", "nan")),
    Row("a variance below 0", lambda: samplers.sample_posterior(lambda t, z: z, EYE, A, A, -A), ("c", "at least 0")),
    Row("tables as lists", lambda: samplers.sample_posterior(lambda t, z: z, EYE, [1.0], [0.0], [0.0]), ("tensors", "list")),
    Row("a guess of one row", lambda: samplers.sample_posterior(lambda t, z: z[:1], EYE, A, A, A), ("at time 2", "[1, 3]")),
    Row("a guess of nothing", lambda: samplers.sample_posterior(lambda t, z: None, EYE, A, A, A), ("at time 2", "NoneType")),
    Row("a start of one dimension", lambda: samplers.sample_posterior(lambda t, z: z, rand(3), A, A, A), ("z_T", "[3]")),
    Row("a seed in place of a generator",
        lambda: samplers.sample_posterior(lambda t, z: z, EYE, A, A, A, 3), ("torch.Generator", "3")),
    Row("one layer, one sample",
        lambda: samplers.sample_posterior(lambda t, z: 2 * z, EYE[:1], A[:1], A[:1], T([0.0])), same(3 * EYE[:1])),
    Row("a level of 1.5", lambda: samplers.sample_renoise(lambda t, z: z, EYE, T([1.5])), ("[0, 1]", "1.5")),
    Row("a level of NaN", lambda: samplers.sample_renoise(lambda t, z: z, EYE, T([NAN])), ("finite", "nan")),
    Row("levels as a list", lambda: samplers.sample_renoise(lambda t, z: z, EYE, [0.5]), ("tensors", "list")),
    Row("no Euler step", lambda: samplers.sample_euler(lambda t, z: z, EYE, 0), ("num_steps", "0")),
    Row("two and a half Euler steps", lambda: samplers.sample_euler(lambda t, z: z, EYE, 2.5), ("num_steps", "2.5")),
    Row("'10' Euler steps", lambda: samplers.sample_euler(lambda t, z: z, EYE, "10"), ("num_steps", "'10'")),
    Row("no Heun step", lambda: samplers.sample_heun(lambda t, z: z, EYE, 0), ("num_steps", "0")),
    Row("a velocity of one number", lambda: samplers.sample_euler(lambda t, z: T(1.0), EYE, 2), ("at time 1", "[]")),
    Row("a velocity that is a float", lambda: samplers.sample_heun(lambda t, z: 1.0, EYE, 2), ("at time 1", "float")),
    Row("no sample", lambda: samplers.sample_euler(lambda t, z: z, rand(0, 3), 2), has_shape(0, 3)),
]

# --- Layers, blocks, features -----------------------------------------------------------------------------------------


def mlps(number=2, feature_dim=4, embed_dim=3, num_classes=3):
    torch.manual_seed(0)
    return [blocks.DenoisingMLP(feature_dim, embed_dim, num_classes, hidden_dim=5) for _ in range(number)]


def sgd(layers):
    return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]


def batch(layers=2, size=6, seed=0):
    return rand(size, 4, seed=seed), rand(layers, size, 3, seed=seed), torch.arange(size) % 3


def looped(layers, batches, loss=losses.readout_loss):
    return layerwise.fit_layers(layers, sgd(layers), batches, loss)


def stacked(layers, batches, loss=losses.readout_loss, kind=layerwise.LayerStack):
    stack = kind(layers)
    return layerwise.fit_stack(stack, torch.optim.SGD(stack.parameters(), lr=0.1), batches, loss)


def nan_in_layer(t, size=6):
    features, z, target = batch(size=size)
    z[t - 1] = NAN
    return features, z, target


def agree(number=2, size=6, kind=MLPStack):
    """Stack and loop on hard but legal batches: states that are no contiguous block."""
    features, z, target = batch(number, size)
    awkward = features.T.contiguous().T, z.transpose(0, 1).contiguous().transpose(0, 1), target
    return stacked(mlps(number), [awkward], kind=kind) - looped(mlps(number), [(features, z, target)])


one_layer = mlps(1)[0]
LAYERWISE = [
    Row("no layer", lambda: looped([], [batch()]), ("0 layers",)),
    Row("an optimizer too few",
        lambda: layerwise.fit_layers(mlps(), sgd(mlps(1)), [batch()], losses.readout_loss), ("1 optimizers",)),
    Row("no batch", lambda: looped(mlps(), []), ("at least one batch",)),
    Row("a batch without samples", lambda: looped(mlps(), [batch(size=0)]), ("at least one sample",)),
    Row("states of a layer too few", lambda: looped(mlps(), [batch(1)]), ("T = 2", "[1, 6, 3]")),
    Row("one layer twice", lambda: looped([one_layer, one_layer], [batch()]), ("share weights",)),
    Row("a NaN state of layer 2", lambda: looped(mlps(), [batch(), nan_in_layer(2)]), ("layer 2", "batch 2", "not finite")),
    Row("an infinite learning rate", lambda: layerwise.fit_layers(
        (few := mlps()), [torch.optim.SGD(layer.parameters(), lr=INF) for layer in few], [batch()] * 2, losses.readout_loss),
        ("layer 1", "batch 2", "learning rate")),
    Row("a batch of one sample", lambda: looped(mlps(), [batch(size=1)]), has_shape(2)),
    Row("stack: no layer", lambda: layerwise.LayerStack([]), ("at least one layer",)),
    Row("stack: one layer twice", lambda: layerwise.LayerStack([one_layer, one_layer]), ("share weights",)),
    Row("stack: layers of two shapes", lambda: layerwise.LayerStack(mlps(1) + mlps(1, feature_dim=5)), ("shapes", "layer 2")),
    Row("stack: layers of two kinds", lambda: layerwise.LayerStack(mlps(1) + [nn.Bilinear(4, 3, 3)]), ("layer 2",)),
    Row("stack: BatchNorm", lambda: layerwise.LayerStack([nn.BatchNorm1d(3)]), ("buffers",)),
    Row("stack: no batch", lambda: stacked(mlps(), []), ("at least one batch",)),
    Row("stack: a batch without samples", lambda: stacked(mlps(), [batch(size=0)]), ("at least one sample",)),
    Row("stack: a state of two dimensions", lambda: stacked(mlps(), [(rand(6, 4), rand(6, 3), T([0] * 6))]), ("[T, B, D]",)),
    Row("stack: a NaN state of layer 2", lambda: stacked(mlps(), [batch(), batch(), nan_in_layer(2)]),
        ("layer 2", "batch 3", "not finite")),
    Row("stack: a loss per number", lambda: stacked(mlps(), [batch()], lambda o, y: o.square()), ("[2, 6]", "[2, 6, 3]")),
    Row("stack: one loss for all", lambda: stacked(mlps(), [batch()], lambda o, y: o.square().mean()), ("[2, 6]", "[]")),
    Row("stack: copied to other layers",
        lambda: layerwise.LayerStack(mlps()).copy_to(mlps(2, feature_dim=5)), ("shape", "layer 1")),
    Row("stack: copied to layers of another kind",
        lambda: layerwise.LayerStack(mlps()).copy_to([nn.Bilinear(4, 3, 3)] * 2), ("layer 1",)),
    Row("stack: copied to too few", lambda: layerwise.LayerStack(mlps()).copy_to(mlps(1)), ("2 layers", "1")),
    Row("stack: equal to the loop on awkward memory", lambda: agree(kind=layerwise.LayerStack), same(torch.zeros(2))),
    Row("fast stack: one layer twice", lambda: MLPStack([one_layer, one_layer]), ("share weights",)),
    Row("fast stack: layers of two shapes", lambda: MLPStack(mlps(1) + mlps(1, num_classes=4)), ("shapes",)),
    Row("fast stack: another kind", lambda: MLPStack([nn.Bilinear(4, 3, 3)]), ("nn.Linear, nn.ReLU, nn.Linear",)),
    Row("fast stack: a NaN state of layer 1", lambda: stacked(mlps(), [nan_in_layer(1)], kind=MLPStack),
        ("layer 1", "batch 1", "not finite")),
    Row("fast stack: a batch without samples", lambda: stacked(mlps(), [batch(size=0)], kind=MLPStack), ("at least one",)),
    Row("fast stack: features of another size",
        lambda: stacked(mlps(), [(rand(6, 5), *batch()[1:])], kind=MLPStack), ("F + D = 7",)),
    Row("fast stack: double features", lambda: MLPStack(mlps())(rand(6, 4).double(), batch()[1].double()),
        lambda out: torch.allclose(out, MLPStack(mlps())(*batch()[:2]))),
    Row("fast stack: equal to the loop on awkward memory", agree, same(torch.zeros(2))),
    Row("fast stack: one layer, one sample", lambda: agree(1, 1), same(torch.zeros(1))),
    Row("process 3 of 3", lambda: layerwise.layers_for_rank(10, 3, 3), ("rank < world_size",)),
    Row("half a layer", lambda: layerwise.layers_for_rank(2.5, 0, 1), ("2.5",)),
    Row("a rank as text", lambda: layerwise.layers_for_rank(10, "0", 3), ("'0'",)),
    Row("more processes than layers", lambda: list(layerwise.layers_for_rank(2, 2, 3)), lambda numbers: numbers == []),
]

conv = functools.partial(blocks.ConvBlock, (1, 8, 8), 3, 3)
timed = functools.partial(blocks.TimedConvBlock, (1, 8, 8), 3, 3)
BLOCKS = [
    Row("perceptron without features", lambda: blocks.DenoisingMLP(0, 3, 3), ("feature_dim", "0")),
    Row("perceptron with -1 classes", lambda: blocks.DenoisingMLP(4, 3, -1), ("num_classes", "-1")),
    Row("perceptron with a width as text", lambda: blocks.DenoisingMLP(4, 3, 3, hidden_dim="5"), ("hidden_dim", "'5'")),
    Row("perceptron: features of another size", lambda: mlps(1)[0](rand(2, 5), rand(2, 3)), ("[B, 4]", "[2, 5]")),
    Row("perceptron: another batch of states", lambda: mlps(1)[0](rand(2, 4), rand(3, 3)), ("[3, 3]",)),
    Row("perceptron: double features", lambda: mlps(1)[0](rand(2, 4).double(), rand(2, 3)), ("float32", "float64")),
    Row("perceptron: no sample", lambda: mlps(1)[0](rand(0, 4), rand(0, 3)), has_shape(0, 3)),
    Row("linear layer without features", lambda: blocks.LinearDenoiser(0, 3), ("feature_dim", "0")),
    Row("linear layer, another batch", lambda: blocks.LinearDenoiser(4, 3)(rand(2, 4), rand(1, 3)), ("[1, 3]",)),
    Row("linear layer, integers", lambda: blocks.LinearDenoiser(4, 3)(rand(2, 4).long(), rand(2, 3)), ("float32", "int64")),
    Row("encoder for images without height", lambda: blocks.ConvEncoder((1, 28)), ("(C, H, W)", "(1, 28)")),
    Row("encoder for images without channels", lambda: blocks.ConvEncoder((0, 28, 28)), ("(C, H, W)", "0")),
    Row("encoder for images of 3 pixels", lambda: blocks.ConvEncoder((1, 3, 3)), ("too small",)),
    Row("encoder with a width of 0", lambda: blocks.ConvEncoder((1, 28, 28), widths=(0, 4)), ("widths", "0")),
    Row("encoder without features", lambda: blocks.ConvEncoder((1, 28, 28), feature_dim=0), ("feature_dim", "0")),
    Row("encoder with padding below 0", lambda: blocks.ConvEncoder((1, 28, 28), padding=-1), ("padding", "-1")),
    Row("encoder shown other images",
        lambda: blocks.ConvEncoder((1, 10, 10))(rand(2, 1, 12, 12)), ("[B, 1, 10, 10]", "[2, 1, 12, 12]")),
    Row("encoder shown every second column",
        lambda: blocks.ConvEncoder((1, 10, 10))(rand(2, 1, 10, 20)[..., ::2]), has_shape(2, 128)),
    Row("block for images without width", lambda: blocks.ConvBlock((8, 8)), ("(C, H, W)",)),
    Row("block for images of 3 pixels", lambda: blocks.ConvBlock((1, 3, 8)), ("too small",)),
    Row("block of no class", lambda: blocks.ConvBlock((1, 8, 8), 3, 0), ("num_classes", "0")),
    Row("block: image-sized state of another size",
        lambda: blocks.ConvBlock((1, 8, 8), 10, 3, image_sized=True), ("D = 64", "10")),
    Row("block: other images", lambda: conv()(rand(2, 1, 9, 9), rand(2, 3)), ("[B, 1, 8, 8]",)),
    Row("block: other states", lambda: conv()(rand(2, 1, 8, 8), rand(2, 4)), ("[2, 3]", "[2, 4]")),
    Row("block: one sample in training", lambda: conv()(rand(1, 1, 8, 8), rand(1, 3)), ("more than 1 value per channel",)),
    Row("block: one sample in evaluation", lambda: conv().eval()(rand(1, 1, 8, 8), rand(1, 3)), has_shape(1, 3)),
    Row("timed block: a time too few", lambda: timed()(rand(2, 1, 8, 8), rand(2, 3), rand(1)), ("t [2]", "[1]")),
    Row("timed block: time as a number", lambda: timed()(rand(2, 1, 8, 8), rand(2, 3), T(0.5)), ("t [B]", "[]")),
    Row("residual block for small maps", lambda: blocks.ResidualBlock((3, 3, 7)), ("sides of at least 4",)),
    Row("residual block of width 0", lambda: blocks.ResidualBlock((3, 8, 8), width=0), ("width", "0")),
    Row("time of an odd dimension", lambda: blocks.timestep_embedding(rand(2), 5), ("even", "5")),
    Row("time of a dimension as text", lambda: blocks.timestep_embedding(rand(2), "64"), ("dim", "'64'")),
    Row("time of a period of 0", lambda: blocks.timestep_embedding(rand(2), 4, max_period=0.0), ("max_period", "0")),
    Row("time in integers", lambda: blocks.timestep_embedding(T([0, 1]), 4)[0], same([1.0, 1.0, 0.0, 0.0])),
    Row("readout of sigma NaN", lambda: blocks.RadialReadout(3, 3, sigma=NAN), ("sigma", "nan")),
    Row("readout of sigma infinity", lambda: blocks.RadialReadout(3, 3, sigma=INF), ("sigma", "inf")),
    Row("readout of sigma as text", lambda: blocks.RadialReadout(3, 3, sigma="1"), ("sigma", "'1'")),
    Row("readout started at other labels",
        lambda: blocks.LinearReadout(3, 3).start_nearest(torch.eye(4)), ("[3, 3]", "[4, 4]")),
    Row("readout started at NaN", lambda: blocks.LinearReadout(3, 3).start_nearest(EYE * NAN), ("finite",)),
    Row("readout started at zeros", lambda: blocks.LinearReadout(3, 3).start_nearest(EYE * 0), plain),
    Row("standardise by 0", lambda: blocks.Standardize(torch.zeros(1), torch.zeros(1)), ("std", "above 0")),
    Row("standardise by NaN", lambda: blocks.Standardize(T([NAN]), torch.ones(1)), ("finite",)),
    Row("standardise integers", lambda: blocks.Standardize.fit(T([[1], [3]])), ("floating", "int64")),
    Row("standardise nothing", lambda: blocks.Standardize.fit(rand(0, 3)), ("finite",)),
    Row("standardise one sample", lambda: blocks.Standardize.fit(rand(1, 3))(rand(1, 3)), same(torch.zeros(1, 3))),
    Row("expected embedding of other classes", lambda: blocks.expected_embedding(rand(2, 4), EYE), ("one K", "[2, 4]")),
    Row("expected embedding of one class",
        lambda: blocks.expected_embedding(rand(2, 1), T([[1.0, 2.0]])), same(T([[1.0, 2.0]] * 2))),
    Row("expected embedding in double precision", lambda: blocks.expected_embedding(rand(2, 3).double(), EYE), ("float64",)),
]

FEATURES = [
    Row("patches of no pixel", lambda: features.extract_patches(rand(2, 1, 8, 8), 0), ("size", "0")),
    Row("patches of '3' pixels", lambda: features.extract_patches(rand(2, 1, 8, 8), "3"), ("size", "'3'")),
    Row("patches larger than the image", lambda: features.extract_patches(rand(2, 1, 4, 4), 5), ("H, W >= 5",)),
    Row("patches of integers", lambda: features.extract_patches((rand(2, 1, 8, 8) * 255).byte(), 3), ("floating", "uint8")),
    Row("patches as large as the image", lambda: features.extract_patches(rand(2, 1, 4, 4), 4), has_shape(2, 1, 16)),
    Row("patches of a flat image", lambda: features.extract_patches(torch.ones(1, 1, 4, 4), 3), same(torch.zeros(1, 4, 9))),
    Row("whitening with a negative epsilon", lambda: features.zca_whitening(rand(9, 2), epsilon=-1.0), ("epsilon", "-1")),
    Row("whitening of NaN", lambda: features.zca_whitening(rand(9, 2) * NAN), ("finite",)),
    Row("whitening of a vector", lambda: features.zca_whitening(rand(9)), ("[N, d]", "[9]")),
    Row("whitening of nothing", lambda: features.zca_whitening(rand(0, 2)), ("[N, d]", "[0, 2]")),
    Row("k-means of no centre", lambda: features.kmeans(rand(9, 2), 0), ("num_centres", "0")),
    Row("k-means of more centres than points", lambda: features.kmeans(rand(3, 2), 4), ("N >= 4",)),
    Row("k-means of '4' centres", lambda: features.kmeans(rand(9, 2), "4"), ("num_centres", "'4'")),
    Row("k-means of NaN", lambda: features.kmeans(rand(9, 2) * NAN, 2), ("finite",)),
    Row("k-means of equal points", lambda: features.kmeans(torch.ones(5, 2), 3), same(torch.ones(3, 2))),
    Row("k-means, as many centres as points", lambda: features.kmeans(rand(3, 2), 3).sum(), same(rand(3, 2).sum())),
    Row("principal components, more than dimensions",
        lambda: features.principal_components(rand(9, 2), 3), ("num_components", "3")),
    Row("principal components, none of them", lambda: features.principal_components(rand(9, 2), 0), ("num_components", "0")),
    Row("principal components of NaN", lambda: features.principal_components(rand(9, 2) * NAN, 1), ("finite",)),
    Row("principal components of a vector", lambda: features.principal_components(rand(9), 1), ("[N, d]",)),
    Row("filters of no image", lambda: features.patch_filters(rand(0, 1, 8, 8), 3, 4), ("at least one image",)),
    Row("filters of NaN", lambda: features.patch_filters(rand(4, 1, 8, 8) * NAN, 3, 4, 40), ("finite",)),
    Row("encoder of no centre", lambda: features.PatchFeatures(1, num_centres=0), ("num_centres", "0")),
    Row("encoder of no grid", lambda: features.PatchFeatures(1, grid=0), ("grid", "0")),
    Row("encoder of '1' channel", lambda: features.PatchFeatures("1"), ("channels", "'1'")),
    Row("encoder fitted to colour",
        lambda: features.PatchFeatures(1, 4, 3).fit(rand(9, 3, 8, 8), num_patches=90), ("[B, 1, H, W]",)),
    Row("encoder fitted to nothing", lambda: features.PatchFeatures(1, 4, 3).fit(rand(0, 1, 8, 8)), ("at least one image",)),
    Row("encoder fitted to one image",
        lambda: features.PatchFeatures(1, 4, 3, 2).fit(rand(1, 1, 8, 8), num_patches=90)(rand(2, 1, 8, 8)),
        has_shape(2, 16)),
    Row("encoder fitted to black images",
        lambda: features.PatchFeatures(1, 4, 3, 2, 5).fit(torch.zeros(9, 1, 8, 8), num_patches=90)(
        torch.zeros(2, 1, 8, 8)), has_shape(2, 5)),
    Row("encoder shown colour", lambda: features.PatchFeatures(1, 4, 3)(rand(2, 3, 8, 8)), ("[B, 1, H, W]",)),
    Row("whitening of patches of 0 pixels", lambda: features.WhitenedPatches(3, 0), ("patch_size", "0")),
    Row("whitening of no image", lambda: features.WhitenedPatches(3).fit(rand(0, 3, 8, 8)), ("N >= 1",)),
    Row("whitened patches of NaN", lambda: features.WhitenedPatches(1).fit(rand(2, 1, 8, 8) * NAN), ("finite",)),
    Row("whitening of blank images", lambda: features.WhitenedPatches(1).fit(torch.ones(2, 1, 8, 8)), ("alike",)),
    Row("whitening of other channels", lambda: features.WhitenedPatches(3)(rand(2, 1, 8, 8)), ("[B, 3, H, W]", "[2, 1, 8, 8]")),
    Row("images smaller than a patch", lambda: features.WhitenedPatches(3)(rand(2, 3, 8, 1)), ("at least 2", "[2, 3, 8, 1]")),
    Row("bytes set upright", lambda: features.Upright()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), ("floating-point", "uint8")),
    Row("one image without a batch set upright", lambda: features.Upright()(rand(1, 8, 8)), ("[B, C, H, W]", "[1, 8, 8]")),
    Row("black images set upright", lambda: features.Upright()(torch.zeros(2, 1, 8, 8)), has_shape(2, 1, 8, 8)),
    Row("signed encoder of -1 centres", lambda: features.SignedPatches(1, -1, 3, 2), ("num_centres", "-1")),
    Row("signed encoder of -1 random features",
        lambda: features.SignedPatches(1, 4, 3, 2, num_random=-1), ("num_random", "-1")),
    Row("signed encoder fitted to nothing",
        lambda: features.SignedPatches(1, 4, 3, 2).fit(rand(0, 1, 8, 8)), ("at least one image",)),
    Row("encode none at a time", lambda: features.encode(nn.Flatten(), rand(4, 1, 2, 2), batch_size=0), ("batch_size", "0")),
    Row("encode no image", lambda: features.encode(nn.Flatten(), rand(0, 1, 2, 2)), has_shape(0, 4)),
    Row("encode one more than a batch", lambda: features.encode(nn.Flatten(), rand(3, 1, 2, 2), 2), same(rand(3, 4))),
]

IMAGES = [
    Row("crop of integers", lambda: augment.crop_and_flip((rand(2, 3, 8, 8) * 255).byte()), ("floating", "uint8")),
    Row("crop of one image without batch", lambda: augment.crop_and_flip(rand(3, 8, 8)), ("[B, C, H, W]", "[3, 8, 8]")),
    Row("crop further than the image", lambda: augment.crop_and_flip(rand(2, 3, 4, 4), padding=4), ("padding", "4")),
    Row("crop by -1", lambda: augment.crop_and_flip(rand(2, 3, 8, 8), padding=-1), ("padding", "-1")),
    Row("crop by '4'", lambda: augment.crop_and_flip(rand(2, 3, 8, 8), padding="4"), ("padding", "'4'")),
    Row("crop by nothing", lambda: augment.crop_and_flip(torch.ones(2, 1, 4, 4), padding=0), same(torch.ones(2, 1, 4, 4))),
    Row("crop of no image", lambda: augment.crop_and_flip(rand(0, 3, 8, 8)), has_shape(0, 3, 8, 8)),
    Row("images as a list", lambda: augment.check_images([1, 2]), ("[B, C, H, W]", "list")),
    Row("images as a numpy array", lambda: augment.check_images(numpy.zeros((2, 1, 8, 8))), ("tensor", "ndarray")),
    Row("images as bytes", lambda: augment.check_images((rand(2, 1, 8, 8) * 255).byte()), ("floating", "uint8")),
    Row("images without pixels", lambda: augment.check_images(rand(2, 1, 0, 8)), ("at least one", "[2, 1, 0, 8]")),
    Row("one infinite pixel", lambda: augment.check_images(rand(2, 1, 8, 8).fill_(INF)), ("finite", "[0, 0, 0, 0]")),
    Row("images in half precision", lambda: augment.check_images(rand(2, 1, 8, 8).half()), plain),
    Row("images on no device", lambda: augment.check_images(torch.empty(2, 1, 8, 8, device="meta")), ("meta",)),
    Row("labels in a column", lambda: augment.check_images(rand(2, 1, 8, 8), T([[0], [1]])), ("int64", "[2, 1]")),
    Row("labels as int8", lambda: augment.check_images(rand(2, 1, 8, 8), T([0, 1]).to(torch.int8)), ("int64", "int8")),
    Row("labels as names", lambda: augment.check_images(rand(2, 1, 8, 8), ["cat", "dog"]), ("int64", "list")),
    Row("a label of -1", lambda: augment.check_images(rand(2, 1, 8, 8), T([0, -1])), ("at least 0", "-1")),
    Row("classes that are none", lambda: augment.check_images(rand(1, 1, 8, 8), T([0]), 0), ("labels", "num_classes")),
    Row("one image turned", lambda: augment.check_like(rand(1, 1, 6, 4), (1, 4, 6)), ("[B, 1, 4, 6]", "[1, 1, 6, 4]")),
    Row("pixels up to 255", lambda: augment.check_like(255 * rand(2, 1, 8, 8), (1, 8, 8)), ("divide by 255",)),
    Row("pixels below 0", lambda: augment.check_like(rand(2, 1, 8, 8) - 0.5, (1, 8, 8)), ("from 0 to 1",)),
    Row("pixels not in one block", lambda: augment.check_like(rand(2, 1, 8, 16)[..., ::2], (1, 8, 8)), plain),
]

# --- Models and training ----------------------------------------------------------------------------------------------

X, Y = rand(12, 1, 8, 8), torch.arange(12) % 3
SIXTYFOUR = functools.partial(mlps, feature_dim=64)


def dt(layers=None, W=EYE, alpha_bar=None, encoder=None, **how):
    layers = SIXTYFOUR() if layers is None else layers
    alpha_bar = schedules.cosine_alpha_bar(2) if alpha_bar is None else alpha_bar
    return NoPropDT(encoder or nn.Flatten(), layers, W, alpha_bar, **how)


def ct(W=EYE, **how):
    return NoPropCT(nn.Identity(), timed(), W, schedules.LearnedGamma(), blocks.LinearReadout(3, 3), num_steps=2, **how)


def fm(W=EYE, **how):
    return NoPropFM(nn.Identity(), timed(), W, **{"num_steps": 2} | how)


def fitted(model, images=X, labels=Y, **how):
    training.fit(model, images, labels, Settings(batch_size=6, **how))
    return model


def patches(num_layers=2):
    torch.manual_seed(0)
    encoder = features.PatchFeatures(1, 4, 3, 2, 5).fit(X, num_patches=90)
    return dt(mlps(num_layers, feature_dim=5), alpha_bar=schedules.cosine_alpha_bar(num_layers), encoder=encoder)


def from_file(saved, model, change=lambda content: content):
    saved.save("model.pt")
    content = checkpoints.load("model.pt")
    change(content["state"])
    checkpoints.save("model.pt", {name: value for name, value in content.items() if name != "format"})
    return model.load("model.pt")


def spoilt(value):
    return lambda state: state["layers.0.mlp.0.weight"][0, 0].fill_(value)


def as_int8(state):
    state["layers.0.mlp.0.weight"] = state["layers.0.mlp.0.weight"].to(torch.int8)


LEVELS = T([0.9, 0.4])
MODELS = [
    Row("NaN in W", lambda: dt(W=EYE * NAN), ("W", "finite")),
    Row("an infinite W", lambda: dt(W=EYE * INF), ("W", "finite")),
    Row("integers in W", lambda: dt(W=EYE.long()), ("W", "floating", "int64")),
    Row("W as a list", lambda: dt(W=[[1.0, 0.0]]), ("W", "list")),
    Row("W as a vector", lambda: dt(W=torch.ones(3)), ("W", "[K, D]", "[3]")),
    Row("W without rows", lambda: dt(W=EYE[:0]), ("W", "[K, D]", "[0, 3]")),
    Row("NaN in W of continuous time", lambda: ct(W=EYE * NAN), ("W", "finite")),
    Row("NaN in W of a flow", lambda: fm(W=EYE * NAN), ("W", "finite")),
    Row("NaN in W of the baseline", lambda: backprop.BackpropNet([conv()], EYE * NAN, nn.Identity()), ("W", "finite")),
    Row("NaN in W of the neural ODE", lambda: backprop.NeuralODE(timed(), EYE * NAN, nn.Identity(), None, 2), ("W", "finite")),
    Row("W with a row too few, trained", lambda: fitted(dt(W=torch.eye(3)[:2]), labels=Y % 2), ("3", "W", "2")),
    Row("W with a row too many, loss", lambda: dt(W=rand(4, 3)).loss(X, Y), ("W", "[4, 3]")),
    Row("W of another D, loss", lambda: dt(W=rand(3, 4)).loss(X, Y), ("z [B, 3]", "[12, 4]")),
    Row("W with a row too few, squared error",
        lambda: dt(W=rand(3, 3)[:, :2], layers=mlps(2, 64, 2, 3), objective="squared_error").loss(X, Y),
        ("[12, 2]", "[12, 3]")),
    Row("W with a row too many, flow", lambda: fm(W=rand(4, 3)).loss(X, Y), ("W", "[4, 3]")),
    Row("W with a row too many, baseline",
        lambda: Propagated(nn.Identity(), backprop.BackpropNet([conv()], rand(4, 3), nn.Identity())).loss(X, Y), ("W", "[4, 3]")),
    Row("one layer twice", lambda: dt(SIXTYFOUR(1) * 2).layer_local, lambda local: local is False),
    Row("one layer twice, in words", lambda: dt(SIXTYFOUR(1) * 2).locality, lambda said: "several layers" in said),
    Row("one layer twice, trained together", lambda: fitted(dt(SIXTYFOUR(1) * 2)), ("share weights",)),
    Row("one layer twice, one of them trained alone",
        lambda: fitted(dt(SIXTYFOUR(1) * 2), layers=(1,)), ("trained apart", "several layers")),
    Row("one layer twice, but frozen",
        lambda: dt([SIXTYFOUR(1)[0].requires_grad_(False)] * 2).layer_local, lambda local: local is True),
    Row("alpha_bar that rises, with levels", lambda: dt(alpha_bar=T([0.1, 0.5, 0.9]), inference=LEVELS), ("never increase",)),
    Row("alpha_bar with NaN, with levels", lambda: dt(alpha_bar=T([1.0, NAN, 0.1]), inference=LEVELS), ("(0, 1]", "nan")),
    Row("alpha_bar as a list", lambda: dt(alpha_bar=[0.9, 0.5, 0.1]).predict(X), has_shape(12)),
    Row("alpha_bar as text", lambda: dt(alpha_bar="cosine"), ("alpha_bar", "'cosine'")),
    Row("a level of 2", lambda: dt(inference=T([2.0, 0.5])), ("levels", "[0, 1]", "2.0")),
    Row("a level of NaN", lambda: dt(inference=T([NAN, 0.5])), ("levels", "[0, 1]", "nan")),
    Row("no layer", lambda: dt([], alpha_bar=T([0.9])), ("0 layers",)),
    Row("layers that are functions", lambda: dt([lambda x, z: z] * 2), ("layers", "nn.Module")),
    Row("None as layers", lambda: NoPropDT(nn.Flatten(), None, EYE, T([0.9, 0.1])), ("layers", "NoneType")),
    Row("an encoder that is a function", lambda: dt(encoder=torch.flatten), ("encoder", "nn.Module")),
    Row("eta NaN", lambda: dt(objective="elbo", readout=blocks.LinearReadout(3, 3), eta=NAN), ("eta", "nan")),
    Row("eta below 0", lambda: ct(eta=-1.0), ("eta", "-1")),
    Row("sigma NaN", lambda: fm(sigma=NAN), ("sigma", "nan")),
    Row("sigma below 0", lambda: fm(sigma=-0.1), ("sigma", "-0.1")),
    Row("half an Euler step", lambda: fm(num_steps=0.5), ("num_steps", "0.5")),
    Row("'2' Euler steps", lambda: fm(num_steps="2"), ("num_steps", "'2'")),
    Row("no Euler step in prediction", lambda: fm().predict(X, num_steps=0), ("num_steps", "0")),
    Row("images as bytes", lambda: dt().predict((X * 255).byte()), ("floating", "uint8")),
    Row("no image", lambda: dt().predict(X[:0]), ("at least one image",)),
    Row("images as an array", lambda: dt().predict(X.numpy()), ("tensor", "ndarray")),
    Row("images without channels", lambda: dt().predict(X[:, 0]), ("[B, C, H, W]",)),
    Row("NaN images", lambda: fm().predict(X * NAN), ("finite",)),
    Row("double images", lambda: dt().predict(X.double()), ("float32", "float64")),
    Row("double images, loss", lambda: dt().loss(X.double(), Y), ("float32", "float64")),
    Row("double images, fitted", lambda: fitted(dt(), X.double()), ("float32", "float64")),
    Row("half images", lambda: ct().predict(X.half()), ("float32", "float16")),
    Row("a double model", lambda: dt(W=EYE).double().predict(X.double()), has_shape(12)),
    Row("a double model's loss", lambda: dt(W=EYE).double().loss(X.double(), Y), lambda loss: loss.dtype == torch.float64),
    Row("a double flow", lambda: fm(W=EYE.clone()).double().predict(X.double()), has_shape(12)),
    Row("a model elsewhere", lambda: dt().to("meta").predict(X), ("cpu", "meta")),
    Row("one image", lambda: dt().predict(X[:1], torch.Generator().manual_seed(0)), has_shape(1)),
    Row("images not in one block", lambda: (
        dt().predict(X.transpose(2, 3).contiguous().transpose(2, 3), torch.Generator().manual_seed(0))
        - dt().predict(X, torch.Generator().manual_seed(0))), same(torch.zeros(12, dtype=torch.int64))),
    Row("one class", lambda: dt(mlps(2, 64, 1, 1), W=torch.ones(1, 1)).predict(X), same(torch.zeros(12, dtype=torch.int64))),
    Row("one layer", lambda: dt(SIXTYFOUR(1), alpha_bar=T([0.9, 0.1])).predict(X), has_shape(12)),
    Row("a seed in place of a generator", lambda: dt().predict(X, 0), ("torch.Generator", "0")),
    Row("a seed in place of a generator, loss", lambda: dt().loss(X, Y, 0), ("torch.Generator", "0")),
    Row("a seed in place of a generator, flow", lambda: fm().loss(X, Y, 0), ("torch.Generator", "0")),
    Row("labels as floats", lambda: dt().loss(X, Y.float()), ("int64", "float32")),
    Row("labels beyond W", lambda: dt().loss(X, Y + 1), ("0..2", "3")),
    Row("layer loss of a label of -1", lambda: dt().layer_loss(1, X.flatten(1), Y - 1), ("0..2", "-1")),
    Row("layer loss of a label too large", lambda: ct().layer_loss(1, X, Y + 1), ("0..2", "3")),
    Row("flow's layer loss of a label of -1", lambda: fm().layer_loss(1, X, Y - 1), ("0..2", "-1")),
    Row("states of a label of -1", lambda: dt().noised_states(Y - 1), ("0..2", "-1")),
    Row("layer 1.5", lambda: dt().predict_alone(X, 1.5), ("layer", "1.5")),
    Row("layer '1'", lambda: dt().predict_alone(X, "1"), ("layer", "'1'")),
    Row("no walk", lambda: dt().probabilities(X, num_walks=0), ("num_walks", "0")),
    Row("'3' walks", lambda: dt().probabilities(X, num_walks="3"), ("num_walks", "'3'")),
    Row("images larger than in training, pooled",
        lambda: fitted(patches()).predict(rand(2, 1, 10, 10)), ("[B, 1, 8, 8]", "[2, 1, 10, 10]")),
    Row("images larger than in training, asked alone",
        lambda: fitted(patches()).predict_alone(rand(2, 1, 9, 9), 1), ("[B, 1, 8, 8]",)),
    Row("images larger than in training, probabilities",
        lambda: fitted(patches()).probabilities(rand(2, 1, 9, 9)), ("[B, 1, 8, 8]",)),
    Row("images larger than in training, measured", lambda: training.accuracy(fitted(patches()), rand(2, 1, 9, 9), Y[:2]),
        ("[B, 1, 8, 8]",)),
    Row("trained anew on larger images",
        lambda: fitted(fitted(patches()), rand(12, 1, 9, 9)).predict(rand(2, 1, 9, 9)), has_shape(2)),
    Row("an encoder that nobody fitted",
        lambda: fitted(dt(mlps(2, 36), encoder=features.PatchFeatures(1, 4, 3))), ("encoder", "fit")),
    Row("names of too few classes", lambda: dt().trained_on((1, 8, 8), ("a",)), ("3 class names", "1")),
    Row("a shape of two numbers", lambda: dt().trained_on((8, 8), ("a", "b", "c")), ("(C, H, W)", "(8, 8)")),
    Row("weights of another schedule", lambda: from_file(dt(), dt(alpha_bar=T([0.9, 0.5, 0.1]))), ("alpha_bar", "model.pt")),
    Row("weights of another objective",
        lambda: from_file(dt(), dt(objective="squared_error")), ("objective", "cross_entropy")),
    Row("weights of another kind", lambda: from_file(ct(), fm()), ("NoPropCT", "NoPropFM")),
    Row("weights of another shape",
        lambda: from_file(dt(), dt(mlps(2, 64, 3, 3)[:1] + [blocks.DenoisingMLP(64, 3, 3, 7)])), ("shape",)),
    Row("NaN weights", lambda: from_file(dt(), dt(), spoilt(NAN)), ("layers.0.mlp.0.weight", "finite")),
    Row("infinite weights", lambda: from_file(dt(), dt(), spoilt(INF)), ("layers.0.mlp.0.weight", "finite")),
    Row("int8 weights", lambda: from_file(dt(), dt(), as_int8), ("layers.0.mlp.0.weight", "int8", "float32")),
    Row("weights as text", lambda: from_file(dt(), dt(), lambda s: s.update({"layers.0.mlp.0.weight": "none"})),
        ("layers.0.mlp.0.weight is none there", "expected torch.float32")),
    Row("its own weights", lambda: from_file(dt(), dt()).predict(X), has_shape(12)),
    Row("baseline: no block", lambda: backprop.BackpropNet([], EYE, nn.Identity()), ("at least one block",)),
    Row("baseline: step 0",
        lambda: backprop.BackpropNet([conv()], EYE, nn.Identity()).step(0, X, rand(12, 3)), ("1 to 1", "0")),
    Row("flow of another number of dimensions",
        lambda: probability_flow(rand(4, 3), rand(4, 1), T(0.0), T(1.0)), ("[4, 3]", "[4, 1]")),
    Row("evaluating what is no module", lambda: evaluating(3).__enter__(), ("nn.Module", "int")),
    Row("neural ODE: no step", lambda: backprop.NeuralODE(timed(), EYE, nn.Identity(), None, 0), ("num_steps", "0")),
    Row("neural ODE: '10' steps", lambda: backprop.NeuralODE(timed(), EYE, nn.Identity(), None, "10"), ("num_steps", "'10'")),
]


def moments(x=rand(9, 4), u=EYE[torch.arange(9) % 3]):
    gathered = Moments(4, 3)
    gathered.add(x, u)
    return gathered


SOLVED = [
    Row("covariances of nothing", lambda: Moments(4, 3).covariances(), ("no batch",)),
    Row("covariances of no features", lambda: Moments(0, 3), ("feature_dim", "0")),
    Row("covariances of another batch", lambda: moments(rand(8, 4)), ("[B, 4]", "[8, 4]")),
    Row("covariances of no sample", lambda: moments(rand(0, 4), rand(0, 3)), ("at least one",)),
    Row("covariances of double features", lambda: moments(rand(9, 4).double()), ("float32", "float64")),
    Row("covariances of NaN features", lambda: moments(rand(9, 4) * NAN).covariances(), ("finite",)),
    Row("covariances of NaN labels", lambda: moments(u=rand(9, 3) * NAN).covariances(), ("finite",)),
    Row("a ridge of 0", lambda: ridge_regression(moments().covariances(), 0.0), ("ridge above 0",)),
    Row("a ridge of NaN", lambda: ridge_regression(moments().covariances(), NAN), ("ridge", "nan")),
    Row("an infinite ridge", lambda: ridge_regression(moments().covariances(), INF), ("ridge", "inf")),
    Row("a ridge below 0", lambda: ridge_regression(moments().covariances(), -1.0), ("ridge", "-1")),
    Row("constant features", lambda: ridge_regression(moments(torch.ones(9, 4)).covariances(), 1.0), ("features that vary",)),
    Row("one sample", lambda: ridge_regression(moments(rand(1, 4), EYE[:1]).covariances(), 1.0), ("features that vary",)),
    Row("a layer at alpha_bar 1", lambda: denoiser_at(ridge_regression(moments().covariances(), 1.0), 1.0), ("[0, 1)",)),
    Row("a layer at alpha_bar NaN",
        lambda: denoiser_at(ridge_regression(moments().covariances(), 1.0), NAN), ("[0, 1)", "nan")),
]

SETTINGS = [
    Row("an infinite learning rate", lambda: Settings(learning_rate=INF), ("learning_rate", "inf")),
    Row("a learning rate of NaN", lambda: Settings(learning_rate=NAN), ("learning_rate", "nan")),
    Row("a learning rate as text", lambda: Settings(learning_rate="1e-3"), ("learning_rate", "float", "'1e-3'")),
    Row("a learning rate of 0", lambda: Settings(learning_rate=0), ("learning_rate", "0")),
    Row("a learning rate of 1", lambda: Settings(learning_rate=1).learning_rate, lambda rate: rate == 1),
    Row("'3' epochs", lambda: Settings(epochs="3"), ("epochs", "int", "'3'")),
    Row("two and a half epochs", lambda: Settings(epochs=2.5), ("epochs", "int", "2.5")),
    Row("no epoch", lambda: Settings(epochs=0), ("epochs", "0")),
    Row("True epochs", lambda: Settings(epochs=True), ("epochs", "True")),
    Row("batches of None", lambda: Settings(batch_size=None), ("batch_size", "None")),
    Row("a cycle of 'yes'", lambda: Settings(one_cycle="yes"), ("one_cycle", "bool", "'yes'")),
    Row("a dropout of NaN", lambda: Settings(feature_dropout=NAN), ("feature_dropout", "nan")),
    Row("a dropout of 1", lambda: Settings(feature_dropout=1.0), ("feature_dropout", "1.0")),
    Row("a seed of 1.5", lambda: Settings(seed=1.5), ("seed", "1.5")),
    Row("a seed of 2**63", lambda: Settings(seed=2**63), ("seed", "2**63")),
    Row("an unknown optimizer", lambda: Settings(optimizer="sgd"), ("adam, adamw", "'sgd'")),
    Row("a list as optimizer", lambda: Settings(optimizer=["adam"]), ("optimizer", "['adam']")),
    Row("layer 1.5", lambda: Settings(layers=(1.5,)), ("layers", "1.5")),
    Row("layers as text", lambda: Settings(layers="1-5"), ("layers", "1-5")),
    Row("layer 0", lambda: Settings(layers=(0, 1)), ("layers", "[0, 1]")),
    Row("one layer's number", lambda: Settings(layers=3), ("layers", "3")),
    Row("a number where text is read",
        lambda: settings.changed(Settings(), {"layers": 3}).layers, lambda layers: layers == (3,)),
    Row("a NaN by text", lambda: settings.changed(Settings(), {"learning_rate": "nan"}), ("learning_rate", "nan")),
    Row("an unknown setting", lambda: settings.changed(Settings(), {"rate": "1"}), ("no setting 'rate'",)),
    Row("layers backwards", lambda: settings.layer_numbers("5-1"), ("1-5", "'5-1'")),
    Row("layers of None", lambda: settings.layer_numbers(None), ("1-5", "None")),
]

SMALL = data.Dataset("small", X, Y, X[:6], Y[:6], ("a", "b", "c"))
PLANNED = functools.partial(runs.plan, SMALL, "local", {"epochs": "1", "num_steps": "2", "num_centres": "4"})


def ran(changed):
    return runs.run(PLANNED(), changed)


def diverging(order, **how):
    """One layer of two is made to diverge at once."""
    model = dt()
    with torch.no_grad():
        model.layers[1].mlp[0].weight.mul_(1e30)
        model.layers[1].mlp[2].weight.mul_(1e30)
    return fitted(model, order=order, **how)


def half_frozen():
    model = dt()
    model.layers[0].mlp[0].weight.requires_grad_(False)
    return model


TRAINING = [
    Row("losses that are NaN, in turn",
        lambda: diverging("layer"), ("diverged", "layer 2", "step 1", "epoch 1", "learning_rate")),
    Row("losses that are NaN, interleaved", lambda: diverging("interleaved"), ("layer 2", "step 1", "epoch 1")),
    Row("losses that are NaN, as a stack",
        lambda: diverging("together"), ("diverged", "layer 2", "step 1", "epoch 1", "learning_rate")),
    Row("losses that are NaN, of layer 2 alone", lambda: diverging("together", layers=(2,)), ("layer 2", "step 1")),
    Row("losses that are NaN, in the readable stack",
        lambda: diverging("together", precision="bfloat16"), ("layer 2", "step 1", "epoch 1")),
    Row("losses that are NaN, later",
        lambda: fitted(fm(), order="layer", epochs=9, learning_rate=1e30), ("layer 1", "step", "epoch")),
    Row("a model that is none", lambda: training.fit(nn.Flatten(), X, Y, Settings()), ("model", "Flatten")),
    Row("settings as a dictionary", lambda: training.fit(dt(), X, Y, {"epochs": 1}), ("Settings", "dict")),
    Row("images and labels swapped", lambda: fitted(dt(), Y, X), ("images", "int64 [12]")),
    Row("one image", lambda: fitted(dt(), X[:1], Y[:1]).predict(X[:1]), has_shape(1)),
    Row("one image and BatchNorm",
        lambda: fitted(dt([blocks.ConvBlock((1, 8, 8), 3, 3) for _ in range(2)], encoder=nn.Identity()),
        X[:1], Y[:1], order="layer"), ("BatchNorm", "one image")),
    Row("a batch larger than the data", lambda: training.fit(dt(), X, Y, Settings(batch_size=10**9)), has_shape(1, 2)),
    Row("layers beyond the last", lambda: fitted(dt(), layers=(3,)), ("1 to 2", "got 3")),
    Row("all layers frozen", lambda: fitted(dt(SIXTYFOUR()).requires_grad_(False)), ("frozen",)),
    Row("accuracy with a label too few", lambda: training.accuracy(dt(), X, Y[:3]), ("labels", "[12]")),
    Row("predictions of no image", lambda: training.predictions(dt(), X[:0]), ("at least one image",)),
    Row("a checkpoint without its file", lambda: training.Keeper(resume=True), ("resume", "checkpoint")),
    Row("step of a cycle of one step", lambda: passes.one_cycle(0, 1, 1.0)[0] > 0, lambda above: above),
    Row("a cycle of no step", lambda: passes.one_cycle(0, 0, 1.0), ("num_steps", "0")),
    Row("a step beyond the cycle", lambda: passes.one_cycle(5, 5, 1.0), ("0 to 4", "5")),
    Row("a random state from text", lambda: passes.reseed("0"), ("seed", "'0'")),
    Row("replayed steps of another batch of labels", lambda: [
        (steps := ReplayedSteps(lambda t, x, y: x.sum() + y.sum(), lambda work: work, lambda work: work()))(1, torch.ones(3), torch.ones(n))
        for n in (3, 3, 3, 3, 2)][-1], same(5.0)),
    Row("a layer in part frozen", lambda: fitted(half_frozen()), ("frozen in part",)),
    Row("solved, though not linear", lambda: fitted(dt(), order="solved", weight_decay=1.0), ("linear layers",)),
    Row("together, though of the paper",
        lambda: fitted(dt(objective="elbo", readout=blocks.LinearReadout(3, 3))), ("order layer or interleaved",)),
    Row("shuffle nothing", lambda: passes.shuffled(0, Settings(), 1, "cpu"), ("at least one image",)),
]

RECIPES = [
    Row("an unknown recipe", lambda: recipes.recipe_named("nosuch"), ("unknown recipe", "'nosuch'", "local")),
    Row("None as recipe", lambda: recipes.recipe_named(None), ("unknown recipe", "None")),
    Row("a list as recipe", lambda: recipes.recipe_named(["local"]), ("unknown recipe", "['local']")),
    Row("'10' layers", lambda: recipes.Local(num_steps="10"), ("num_steps", "'10'")),
    Row("half a layer", lambda: recipes.Shared(num_steps=2.5), ("num_steps", "2.5")),
    Row("no layer", lambda: recipes.PaperDT(num_steps=0), ("num_steps", "0")),
    Row("True layers", lambda: recipes.Published(num_steps=True), ("num_steps", "True")),
    Row("eta NaN", lambda: recipes.PaperDT(eta=NAN), ("eta", "nan")),
    Row("sigma as text", lambda: recipes.PaperFM(sigma="0"), ("sigma", "'0'")),
    Row("an unknown embedding", lambda: recipes.PaperDT(embedding="word"), ("one_hot", "'word'")),
    Row("a list as embedding", lambda: recipes.PaperDT(embedding=[]), ("one_hot", "[]")),
    Row("half a centre", lambda: recipes.ClosedForm(num_centres=0.5), ("num_centres", "0.5")),
    Row("more centres than patches", lambda: recipes.ClosedForm(num_centres=60_000), ("num_centres", "50000")),
    Row("a width as text", lambda: recipes.Residual(width="64"), ("width", "'64'")),
    Row("an infinite eta", lambda: recipes.PaperCT(eta=INF), ("eta", "inf")),
    Row("no block", lambda: recipes.PaperBackprop(num_steps=0), ("num_steps", "0")),
    Row("no step of the neural ODE", lambda: recipes.PaperAdjoint(num_steps=0), ("num_steps", "0")),
    Row("patches larger than the images",
        lambda: recipes.Local(patch_size=9).build(recipes.Shape((1, 8, 8), 3, 9)), ("9 x 9", "[1, 8, 8]")),
    Row("images of 4 pixels for the residual network",
        lambda: recipes.Residual().build(recipes.Shape((3, 4, 7), 3, 9)), ("5 pixels",)),
    Row("a start of no name",
        lambda: recipes.embedding_start("word", X, Y, 3, torch.Generator()), ("learned, prototype", "'word'")),
    Row("a start of a class without images",
        lambda: recipes.embedding_start("prototype", X, Y, 4, torch.Generator()), ("class 3",)),
    Row("no walk to measure", lambda: dataclasses.replace(PLANNED(), inference_runs=0), ("inference_runs", "0")),
    Row("'2' walks to measure", lambda: dataclasses.replace(PLANNED(), inference_runs="2"), ("inference_runs", "'2'")),
    Row("measured after no step", lambda: dataclasses.replace(PLANNED(), steps=(0,)), ("steps", "0")),
    Row("measured after '5' steps", lambda: dataclasses.replace(PLANNED(), steps="5"), ("steps", "'5'")),
    Row("images of 3 pixels", lambda: recipes.Shared().build(recipes.Shape((1, 3, 3), 3, 9)), ("too small", "4 pixels")),
    Row("images of no channel", lambda: recipes.Local().build(recipes.Shape((0, 8, 8), 3, 9)), ("channels", "0")),
    Row("a plan of a recipe that is none", lambda: runs.plan(SMALL, "nosuch"), ("unknown recipe",)),
    Row("a plan with a number in place of text", lambda: runs.plan(SMALL, "local", {"epochs": 3}).settings.epochs, same(3)),
    Row("a plan with an unknown setting", lambda: runs.plan(SMALL, "local", {"rate": "1"}), ("no setting 'rate'",)),
    Row("a plan for one class", lambda: runs.plan(SMALL._replace(class_names=("a",)), "local"), ("one class",)),
    Row("a plan for no image",
        lambda: runs.plan(SMALL._replace(train_images=X[:0], train_labels=Y[:0]), "local"), ("at least one",)),
    Row("test images of another size",
        lambda: ran(SMALL._replace(test_images=rand(6, 1, 9, 9))), ("test split", "[B, 1, 8, 8]", "[6, 1, 9, 9]")),
    Row("test images in colour", lambda: ran(SMALL._replace(test_images=rand(6, 3, 8, 8))), ("test split", "[6, 3, 8, 8]")),
    Row("test images that are double", lambda: ran(SMALL._replace(test_images=X[:6].double())), ("test", "float64")),
    Row("test images up to 255", lambda: ran(SMALL._replace(test_images=255 * X[:6])), ("test", "255")),
    Row("training images up to 255", lambda: ran(SMALL._replace(train_images=255 * X)), ("train", "255")),
    Row("training images that are double", lambda: ran(SMALL._replace(train_images=X.double())), ("train", "float64")),
    Row("no test image", lambda: ran(SMALL._replace(test_images=X[:0], test_labels=Y[:0])), ("test", "at least one image")),
    Row("test labels beyond the classes", lambda: ran(SMALL._replace(test_labels=Y[:6] + 1)), ("test", "0..2", "3")),
    Row("a name too many", lambda: ran(SMALL._replace(train_labels=Y + 1)), ("train", "0..2", "3")),
    Row("accuracy by class of other images", lambda: runs.accuracy_by_class(Y[:5], SMALL), ("6", "5")),
    Row("a description that is none", lambda: runs.from_data({}), ("another version",)),
    Row("a description that is a list", lambda: runs.from_data([]), ("another version",)),
    Row("a description of an unknown recipe",
        lambda: runs.from_data(runs.as_data(PLANNED()) | {"recipe": "x"}), ("another version",)),
    Row("a file that is not there", lambda: runs.load_trained("none.pt"), ("none.pt",)),
    Row("joining nothing", lambda: runs.join([]), ("at least one file",)),
]

BENCHMARKS = [
    Row("time nothing", lambda: benchmark.alternate({}), ("at least one run",)),
    Row("no repeat", lambda: benchmark.alternate({"a": int}, repeats=0), ("one repeat", "0")),
    Row("a row without values", lambda: benchmark.row("a", [], "s"), ("values",)),
    Row("rows of two lengths", lambda: benchmark.row("a", [1.0], "s", "b", [1.0, 2.0]), ("1", "2")),
    Row("a baseline of 0", lambda: benchmark.row("a", [1.0], "s", "b", [0.0]), ("baseline", "0")),
    Row("a matrix of size 0", lambda: benchmark.matmul_flops(0), ("size", "0")),
    Row("perceptron of one width", lambda: benchmark.mlp_flops(1, (2,)), ("two widths",)),
]

# --- Data sets and images in files ------------------------------------------------------------------------------------


def png(path, size=(6, 4), depth=8, colour=2, rows=None, exif=None):
    """A PNG written by hand, of any depth and any claim: rows of bytes, each behind its filter byte."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    if rows is None:
        rows = b"".join(b"\0" + bytes((i + j) % 256 for i in range(size[0] * channels * depth // 8)) for j in range(size[1]))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"eXIf", exif) if exif else b"", chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def lying(path, **how):
    """A picture 6 wide and 4 high, its left half white, stored lying on its side: orientation 6 turns it upright."""
    upright = numpy.zeros((4, 6, 3), numpy.uint8)
    upright[:, :3] = 255
    stored = Image.fromarray(numpy.rot90(upright).copy())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=turned(6), **how)
    return path


def is_upright(image):
    """White on the left, black on the right, six wide."""
    return image.shape[-2:] == (4, 6) and image[..., 0].min() > 0.9 and image[..., 5].max() < 0.1


def folder(change=lambda: None, per_class=5):
    """A folder of two classes, changed: -> what is read of it."""
    for k, name in enumerate(("cat", "dog")):
        for i in range(per_class):
            png(f"mine/{name}/{i}.png", rows=bytes([0, *range(40 * k + i, 40 * k + i + 18)]) * 4)
    change()
    return data.load_dataset("folder:mine")


def in_both_splits(number):
    for split in ("train", "test"):
        for i in range(3):
            png(f"both/{split}/cat/{i}.png", rows=bytes([0] + [9 * i + (split == "test" and i >= number)] * 18) * 4)
            png(f"both/{split}/dog/{i}.png", rows=bytes([0] + [100 + 9 * i + (split == "test")] * 18) * 4)
    return data.load_dataset("folder:both").preparation.lines


def mpo(path):
    """A JPEG with a second picture in it, as telephones write: Pillow calls it MPO."""
    second = Image.new("RGB", (4, 6))
    return lying(path, format="MPO", save_all=True, append_images=[second], quality=95)


def image_of(path, shape=(3, 4, 6)):
    return images.read_picture(path, shape)[0]


def home_folder(name):
    os.environ["HOME"] = os.getcwd()  # the test puts it back
    png("pictures/cat/1.png"), png("pictures/cat/2.png")
    return data.load_dataset(name).train_images


GREY_16 = bytes([0] + [128, 255] * 6) * 4
DATA = [
    Row("no data set", lambda: data.load_dataset(""), ("digits", "folder:PATH", "''")),
    Row("None as data set", lambda: data.load_dataset(None), ("digits", "None")),
    Row("a number as data set", lambda: data.load_dataset(7), ("digits", "7")),
    Row("a list as data set", lambda: data.load_dataset(["digits"]), ("digits", "['digits']")),
    Row("a size for the digits", lambda: data.load_dataset("digits", image_size=(4, 4)), ("size", "digits")),
    Row("a folder without a path", lambda: data.load_dataset("folder:"), ("folder:PATH", "none")),
    Row("the home of nobody", lambda: data.load_dataset("folder:~nosuchuser/cats"), ("~nosuchuser", "home")),
    Row("the home of nobody as root", lambda: data.load_dataset("mnist", root="~nosuchuser"), ("~nosuchuser", "home")),
    Row("the home of nobody, read as a folder", lambda: images.read_folder("~nosuchuser/cats"), ("~nosuchuser", "home")),
    Row("the home of nobody, one picture",
        lambda: images.read_picture("~nosuchuser/cat.png", (3, 4, 6)), ("~nosuchuser", "home")),
    Row("my own home", lambda: home_folder("folder:~/pictures"), has_shape(1, 3, 4, 6)),
    Row("my own home, read as a folder",
        lambda: (home_folder("folder:~/pictures"), images.read_folder("~/pictures"))[1].train_images,
        has_shape(1, 3, 4, 6)),
    Row("my own home, one picture",
        lambda: (home_folder("folder:~/pictures"), images.read_picture("~/pictures/cat/1.png", (3, 4, 6)))[1],
        has_shape(1, 3, 4, 6)),
    Row("a path with a zero byte", lambda: data.load_dataset("folder:a\0b"), ("folder",)),
    Row("a path of 5000 letters", lambda: data.load_dataset("folder:" + "a" * 5000), ("folder:aaaa",)),
    Row("a root that is a number", lambda: data.load_dataset("mnist", root=7), ("root", "7")),
    Row("a size of 0", lambda: data.load_dataset(f"folder:{folder() and 'mine'}", image_size=(0, 4)), ("size", "(0, 4)")),
    Row("a size below 0", lambda: data.load_dataset(f"folder:{folder() and 'mine'}", image_size=(4, -4)), ("size", "(4, -4)")),
    Row("a size as one number",
        lambda: data.load_dataset(f"folder:{folder() and 'mine'}", image_size=64), ("size", "(width, height)", "64")),
    Row("a size as text", lambda: data.load_dataset(f"folder:{folder() and 'mine'}", image_size="64"), ("size", "'64'")),
    Row("a size of a million pixels a side",
        lambda: data.load_dataset(f"folder:{folder() and 'mine'}", image_size=(10**6, 10**6)),
        ("size", "1000000")),
    Row("a split of no file", lambda: images.split_files([]), ("two images at least", "none")),
    Row("a split that leaves nothing",
        lambda: images.split_files([Path("a/1.png"), Path("a/2.png")], share=1.0), ("share", "1.0")),
    Row("a shape for what is no file", lambda: images.fits("gone.png", (3, 4, 6)), ("gone.png", "found none")),
    Row("floats as bytes of pixels", lambda: images.as_images(numpy.zeros((1, 4, 6, 3))), ("uint8", "float64")),
    Row("a path that is none", lambda: images.read_folder(None), ("path", "None")),
    Row("a picture for a shape of two numbers", lambda: images.read_picture(png("x.png"), (4, 6)), ("(C, H, W)", "(4, 6)")),
    Row("a picture of no pixel", lambda: images.read_picture(png("x.png"), (3, 0, 6)), ("size", "(6, 0)")),
    Row("hold out all", lambda: data.hold_out(SMALL, 12), ("1..11", "12")),
    Row("hold out True", lambda: data.hold_out(SMALL, True), ("1..11", "True")),
    Row("hold out '3'", lambda: data.hold_out(SMALL, "3"), ("1..11", "'3'")),
    Row("hold out by a seed as text", lambda: data.hold_out(SMALL, 3, seed="0"), ("seed", "'0'")),
    Row("hold out all but one", lambda: data.hold_out(SMALL, 11).train_images, has_shape(1, 1, 8, 8)),
    Row("checksum of NaN images", lambda: data.dataset_checksum(SMALL._replace(train_images=X * NAN)), ("finite",)),
    Row("a pipe among the images", lambda: folder(lambda: os.mkfifo("mine/cat/x.png")), ("mine/cat/x.png", "pipe")),
    Row("a link to a pipe",
        lambda: folder(lambda: (os.mkfifo("p"), os.symlink(os.path.abspath("p"), "mine/cat/x.png"))), ("x.png", "pipe")),
    Row("a pipe as a picture", lambda: (os.mkfifo("p.png"), image_of("p.png")), ("p.png", "pipe")),
    Row("a device as a picture", lambda: image_of("/dev/zero"), ("/dev/zero", "device")),
    Row("a folder called x.png", lambda: folder(lambda: Path("mine/cat/x.png").mkdir()), ("mine/cat/x.png", "a folder")),
    Row("a link to nothing", lambda: folder(lambda: os.symlink("gone", "mine/cat/x.png")), ("mine/cat/x.png", "found none")),
    Row("an empty file", lambda: folder(lambda: Path("mine/cat/x.png").touch()), ("mine/cat/x.png", "0 bytes")),
    Row("text called x.jpg", lambda: folder(lambda: Path("mine/cat/x.jpg").write_text("hi")), ("mine/cat/x.jpg", "2 bytes")),
    Row("a header of 60000 x 60000", lambda: folder(lambda: png("mine/cat/x.png", (60000, 60000), rows=b"")),
        ("mine/cat/x.png", "60000x60000", "pixels")),
    Row("a header of 12000 x 12000", lambda: folder(lambda: png("mine/cat/x.png", (12000, 12000), rows=b"")),
        ("mine/cat/x.png", "12000x12000", "pixels")),
    Row("a header of 0 x 4", lambda: folder(lambda: png("mine/cat/x.png", (0, 4), rows=b"")), ("mine/cat/x.png",)),
    Row("a header of 4 x 2**31", lambda: folder(lambda: png("mine/cat/x.png", (4, 2**31), rows=b"")), ("mine/cat/x.png",)),
    Row("half of its bytes", lambda: folder(lambda: (path := png("mine/cat/x.png")).write_bytes(path.read_bytes()[:50])),
        ("mine/cat/x.png", "whole image")),
    Row("a header of 9000 x 9000 before nothing",
        lambda: folder(lambda: png("mine/cat/x.png", (9000, 9000), rows=b"")), ("mine/cat/x.png",)),
    Row("a photo on its side", lambda: image_of(lying("x.jpg", quality=95)), is_upright),
    Row("a photo on its side with a second one in it", lambda: image_of(mpo("x.jpg")), is_upright),
    Row("a PNG on its side", lambda: image_of(lying("x.png")), is_upright),
    Row("a photo on its side in a folder",
        lambda: folder(lambda: lying("mine/cat/9.jpg", quality=95)).preparation.resized, same(0)),
    Row("a PNG with broken EXIF", lambda: image_of(png("x.png", exif=b"\xff\xff\xff\xff")), has_shape(3, 4, 6)),
    Row("grey of 16 bits",
        lambda: folder(lambda: png("mine/cat/x.png", depth=16, colour=0, rows=GREY_16)), ("8 bits", "convert")),
    Row("colour of 16 bits", lambda: image_of(png("x.png", depth=16, colour=2, rows=bytes([0] + [128, 255] * 18) * 4)),
        lambda x: bool(((x * 255).round() == 128).all())),
    Row("colour of 16 bits with transparency",
        lambda: image_of(png("x.png", depth=16, colour=6, rows=bytes([0] + [128, 255] * 24) * 4)),
        lambda x: bool(((x * 255).round() == 128).all())),
    Row("grey of 16 bits with transparency",
        lambda: image_of(png("x.png", depth=16, colour=4, rows=bytes([0] + [128, 255] * 12) * 4)),
        lambda x: bool(((x * 255).round() == 128).all())),
    Row("grey of one bit",
        lambda: image_of(png("x.png", (8, 4), depth=1, colour=0, rows=b"\0\xf0" * 4), (1, 4, 8)).sum((0, 1)),
        same([4.0] * 4 + [0.0] * 4)),
    Row("a picture of 7 channels", lambda: image_of(png("x.png"), (7, 4, 6)), ("grey or colour", "7 channels")),
    Row("a picture that is not there", lambda: image_of("gone.png"), ("gone.png", "found none")),
    Row("two test images of training", lambda: in_both_splits(2), lambda lines: len(lines) == 1 and "2 test images" in lines[0]
        and "0.png" in lines[0] and "1.png" in lines[0]),
    Row("one test image of training",
        lambda: in_both_splits(1), lambda lines: len(lines) == 1 and "1 test image is" in lines[0]
        and "0.png" in lines[0]),
    Row("no test image of training", lambda: in_both_splits(0), lambda lines: lines == []),
]

TABLE = {
    "schedules": SCHEDULES, "noise": NOISE, "embeddings": EMBEDDINGS, "losses": LOSSES, "samplers": SAMPLERS,
    "layers": LAYERWISE, "blocks": BLOCKS, "features": FEATURES, "images": IMAGES, "models": MODELS, "solved": SOLVED,
    "settings": SETTINGS, "training": TRAINING, "recipes": RECIPES, "benchmark": BENCHMARKS, "data": DATA,
}  # fmt: skip
