"""How fast a label fades: alpha, alpha_bar, SNR and a label being noised, for schedules of any length and ends (chapter 1)."""

import math
from typing import Callable, NamedTuple, Sequence

import torch
from IPython.display import HTML
from torch import Tensor

from ...schedules import alpha_bar_from_alphas, alphas_from_alpha_bar, cosine_alpha_bar, linear_alphas, snr
from . import frame

LABEL = 3
# Ten draws of a standard normal distribution, the same for every schedule: what changes is the schedule.
NOISE = (0.42, -1.13, 0.87, -0.35, 1.56, -0.64, -1.48, 0.21, 0.95, -0.31)
LEFT, RIGHT, TOP, BOTTOM = 34, 312, 32, 140  # of the two charts
HEIGHT = 160
BARS = 86, 34, 157  # the line that they stand on, a 1, and the names below
DECADES = 5  # of the SNR, up and down


class Ends(NamedTuple):
    """One end of a schedule: what it is called, the values that it may take, and which it has at first."""

    label: str
    values: Sequence[float]
    at: int


class Kind(NamedTuple):
    """A kind of schedule: ``alpha_bar(T, first end, last end)`` -> [T + 1]."""

    label: str
    alpha_bar: Callable[[int, float, float], Tensor]
    first: Ends
    last: Ends


def _cosine(num_steps: int, clean_end: float, noise_end: float) -> Tensor:
    return cosine_alpha_bar(num_steps, clean_end=clean_end, noise_end=noise_end)


def _linear(num_steps: int, start: float, end: float) -> Tensor:
    return alpha_bar_from_alphas(linear_alphas(num_steps, start, end))


def _sigmoid(num_steps: int, gamma_0: float, gamma_1: float) -> Tensor:
    """alpha_bar = sigmoid(-gamma), gamma a straight line: what a learned schedule starts near."""
    return torch.sigmoid(-torch.linspace(gamma_0, gamma_1, num_steps + 1, dtype=torch.float64))


KINDS = (
    Kind(
        "cosine", _cosine, Ends("ᾱ at t = 0:", (0.9, 0.95, 0.99, 0.999, 0.9999), 4),
        Ends("ᾱ at t = T:", (0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3), 0),
    ),
    Kind(
        "linear α, as published", _linear, Ends("α of step 1:", (0.8, 0.9, 0.95, 0.99, 1.0), 4),
        Ends("α of step T:", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9), 2),
    ),
    Kind(
        "sigmoid, log SNR straight", _sigmoid, Ends("log SNR at t = 0:", (-10.0, -8.0, -6.0, -5.0, -4.0, -3.0, -2.0), 3),
        Ends("log SNR at t = T:", (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0), 3),
    ),
)  # fmt: skip


def schedule_explorer(name: str = "schedule", kind: int = 0, num_steps: int = 10, t: int = 5) -> HTML:
    """Schedules to move: ``kind`` is one of ``KINDS``, 2 <= T = ``num_steps`` <= 50, and t a time in it, 0 ... T."""
    if not (0 <= kind < len(KINDS) and 2 <= num_steps <= 50 and 0 <= t <= num_steps):
        kinds = f"a kind from 0 to {len(KINDS) - 1}"
        raise ValueError(f"expected {kinds}, 2 <= num_steps <= 50, 0 <= t <= num_steps; got {kind}, {num_steps}, {t}")
    first, last = KINDS[kind].first, KINDS[kind].last
    table = KINDS[kind].alpha_bar(num_steps, first.values[first.at], last.values[last.at])
    ends = [frame.slider(key, end.label, 0, len(end.values) - 1, end.at) for key, end in (("first", first), ("last", last))]
    settings = frame.controls(
        [frame.choice("kind", "schedule", [one.label for one in KINDS], kind)],
        [frame.slider("T", "layers, T =", 2, 50, num_steps), frame.slider("t", "time, t =", 0, num_steps, t)],
        ends,
    )
    body = frame.body(_fractions(name, table, t), _ratio(name, table, t), _label(name, table, t), settings)
    data = {"label": LABEL, "noise": NOISE, "kinds": [[one.first, one.last] for one in KINDS]}
    help = "Time t counts noise: 0 is the clean label, T is where inference starts. The noise on the label stays the same."
    return frame.figure("schedule", name, says(table, t), [body], data, help)


def says(alpha_bar: Tensor, t: int) -> str:
    """What there is to say of a time, in numbers."""
    left = float(alpha_bar[t])
    ratio = "infinite" if left == 1 else f"{_short(float(snr(alpha_bar[t])))}"
    said = f"At t = {t} of {len(alpha_bar) - 1}: signal {left**0.5:.3f}, noise {(1 - left) ** 0.5:.3f}, SNR {ratio}."
    if t and alpha_bar[t] == alpha_bar[t - 1]:
        return said + f" Step {t} adds no noise at all."
    return said + (f" Step {t} keeps α = {float(alpha_bar[t] / alpha_bar[t - 1]):.3f} of the signal's square." if t else "")


def _short(value: float) -> str:
    """Three digits, without an exponent that a reader has to decode unless the number is very small or large."""
    if not 1e-4 <= value < 1e5:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits} × 10^{int(exponent)}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


# --- Drawings ---------------------------------------------------------------------------------------------------------


def _x(t: float, num_steps: int) -> float:
    return LEFT + (RIGHT - LEFT) * t / num_steps


def _path(values: Sequence[float], first_t: int, num_steps: int, y: Callable[[float], float]) -> str:
    return "".join(f"{'L' if i else 'M'}{_x(first_t + i, num_steps):.1f} {y(v):.1f}" for i, v in enumerate(values))


def _axes(ticks: dict[float, str], num_steps: int, t: int) -> str:
    """Lines at the heights of ``ticks`` with their names, the ends of time, and a line at t."""
    lines = "".join(f"M{LEFT} {y:.1f}H{RIGHT}" for y in ticks)
    names = "".join(frame.text(LEFT - 5, y + 4, said, "nph-small", "end") for y, said in ticks.items())
    ends = frame.text(LEFT, BOTTOM + 16, "t = 0", "nph-small", "start") + frame.text(
        RIGHT, BOTTOM + 16, f"T = {num_steps}", "nph-small nph-T", "end"
    )
    now = f'<path class="nph-now" d="M{_x(t, num_steps):.1f} {TOP - 6}V{BOTTOM + 4}"/>'
    return f'<path class="nph-grid" d="{lines}"/>{names}{ends}{now}'


def _fraction_y(value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * value


def _ratio_y(value: float) -> float:
    """Height of a ratio on a logarithmic scale, 1 in the middle, cut DECADES above and below."""
    height = (BOTTOM - TOP) / (2 * DECADES)
    decades = DECADES if value == math.inf else max(-DECADES, min(DECADES, math.log10(value)))
    return (TOP + BOTTOM) / 2 - height * decades


def _fractions(name: str, alpha_bar: Tensor, t: int) -> str:
    T, alphas = len(alpha_bar) - 1, alphas_from_alpha_bar(alpha_bar).tolist()
    description = "Against time t: the part of the label's square that is left, ᾱ, and the part that each step keeps, α."
    return frame.svg(
        "fractions", name, "What is left of the label", description, HEIGHT,
        '<path class="nph-line" d="M2 10h20"/><path class="nph-line nph-dashed" d="M150 10h20"/>',
        frame.head("what is left, ᾱ", 28), frame.head("kept by step t, α", 176),
        _axes({_fraction_y(v): f"{v:g}" for v in (0.0, 0.5, 1.0)}, T, t),
        f'<path class="nph-line nph-dashed" data-line="alpha" d="{_path(alphas, 1, T, _fraction_y)}"/>',
        f'<path class="nph-line" data-line="left" d="{_path(alpha_bar.tolist(), 0, T, _fraction_y)}"/>',
    )  # fmt: skip


def _ratio(name: str, alpha_bar: Tensor, t: int) -> str:
    T = len(alpha_bar) - 1
    ticks = {_ratio_y(10.0**n): said for n, said in ((-4, "10⁻⁴"), (-2, "10⁻²"), (0, "1"), (2, "10²"), (4, "10⁴"))}
    description = "Against time t, on a logarithmic scale. At 1, signal and noise are as strong; it is cut at 10⁻⁵ and 10⁵."
    return frame.svg(
        "ratio", name, "Signal-to-noise ratio", description, HEIGHT,
        frame.head("signal to noise, SNR"), frame.scale("cut at 10⁻⁵ and 10⁵"), _axes(ticks, T, t),
        f'<path class="nph-line nph-green" data-line="snr" d="{_path(snr(alpha_bar).tolist(), 0, T, _ratio_y)}"/>',
    )  # fmt: skip


def _label(name: str, alpha_bar: Tensor, t: int) -> str:
    z = alpha_bar[t].sqrt() * torch.eye(10, dtype=torch.float64)[LABEL]
    z += (1 - alpha_bar[t]).sqrt() * torch.tensor(NOISE, dtype=torch.float64)
    description = f"Ten bars, one a class: the label {LABEL}, scaled by the signal, with noise on it."
    return frame.svg(
        "label", name, "A label being noised", description, HEIGHT, frame.head(f"the label “{LABEL}” at time t"),
        frame.bars("label", z.tolist(), LABEL, *BARS),
    )  # fmt: skip
