"""The conformance vectors, made: ``python -m noprop_helpers.lab.conformance_vectors`` writes ``conformance.json``.

Inputs are chosen here, plain numbers all of them, noise included; what is expected comes from ``conformance_formulas``, to 12
digits. A vector's tolerance is what single precision needs: four times what its answer can move if every input moves by one
unit in the last place of a 32-bit float, and at least 1e-6.
"""

import decimal
import json
from decimal import Decimal
from pathlib import Path
from typing import Callable, Iterator

from .conformance_formulas import GROUPS

__all__ = ["vectors", "tolerance"]

FILE = Path(__file__).with_name("conformance.json")
DIGITS = decimal.Context(prec=50)
LAST_PLACE = Decimal(2) ** -23
LEAST_TOLERANCE = 1e-6

ABOUT = {
    "title": "NoProp conformance vectors",
    "licence": "MIT",
    "version": 1,
    "time": "t counts noise: alpha_bar has T + 1 entries, alpha_bar[0] at the clean label; layer t maps z_t to z_{t-1}",
    "close": "|answer - expected| <= tolerance * max(1, |expected|), for every number",
}

# Tables of T + 1 levels, clean end first: begun at 1, and begun below.
WHOLE = ([1.0, 0.25], [1.0, 0.9, 0.3], [1.0, 0.81, 0.5, 0.2, 0.04])
CAPPED = (
    [0.9, 0.2],
    [0.99, 0.6, 0.05],
    [0.95, 0.7, 0.35, 0.1],
    [0.999, 0.93, 0.75, 0.5, 0.25, 0.07, 0.001],
    [0.98, 0.96, 0.9, 0.82, 0.7, 0.57, 0.43, 0.29, 0.16, 0.06, 0.01],
)
TABLES = WHOLE + CAPPED
# Layers of them to ask about: the first, the last and one between.
LAYERS = [(table, t) for table in TABLES for t in sorted({1, len(table) // 2, len(table) - 1})]
CAPPED_LAYERS = [(table, t) for table, t in LAYERS if table in CAPPED]


def numbers(seed: int, n: int) -> list[float]:
    """n numbers from -2 to 2 with two decimals that look like nothing in particular, the same for the same seed."""
    return [((37 * seed + 101 * i * i + 53 * i + 7 * seed * i) % 401 - 200) / 100 for i in range(1, n + 1)]


def dimension(seed: int) -> int:
    """Of the vectors of case number ``seed``: 2, 3, 4 or 5."""
    return 2 + seed % 4


def vector(seed: int, which: int) -> list[float]:
    """One of several vectors of a case, all of one dimension."""
    return numbers(10 * seed + which, dimension(seed))


def rows(seed: int, n: int) -> list[list[float]]:
    """n vectors of a case."""
    return [vector(seed, 3 + i) for i in range(n)]


def schedule_inputs() -> dict[str, list[dict]]:
    """Group -> what its function is asked."""
    steps = (1, 2, 3, 4, 5, 7, 10, 20, 50)
    ends = ((0.9999, 1e-4), (0.99, 0.01), (0.95, 0.002))
    lines = [(1, 0.9, 0.5), (2, 1.0, 0.1), (3, 0.99, 0.2), (4, 1.0, 0.1), (5, 0.9, 0.3), (6, 0.5, 0.95), (8, 0.97, 0.6)]
    lines += [(10, 1.0, 0.1), (10, 0.999, 0.4), (20, 0.999, 0.7)]
    alphas = [[0.5], [1.0, 0.7], [0.9, 0.8, 0.7], [0.3, 0.6], [0.99, 0.9, 0.7, 0.4], [1.0, 0.7, 0.4, 0.1]]
    alphas += [[0.95, 0.5, 0.9, 0.2, 0.6]]
    cosines = [(T, 0.008, *ends[i % 3]) for i, T in enumerate(steps)] + [(4, 0.0, 0.9, 0.1), (10, 0.05, 0.999, 1e-3)]
    return {
        "linear_alpha_bar": [{"num_steps": T, "start": start, "end": end} for T, start, end in lines],
        "cosine_alpha_bar": [
            {"num_steps": T, "offset": offset, "clean_end": clean, "noise_end": noise} for T, offset, clean, noise in cosines
        ],
        "alpha_bar_from_alphas": [{"alphas": table} for table in alphas],
        "alphas_from_alpha_bar": [{"alpha_bar": table} for table in TABLES],
        "snr": [{"alpha_bar": table} for table in CAPPED],
        "snr_weights": [{"alpha_bar": table} for table in CAPPED],
        "alpha_bar_of_gamma": [{"gamma": gamma} for gamma in (-6.5, -3.0, -1.25, -0.5, 0.0, 0.75, 2.0, 4.5, 7.0)],
    }


def state_inputs() -> dict[str, list[dict]]:
    """Group -> what its function is asked."""
    asked = [(i, {"alpha_bar": table, "t": t}) for i, (table, t) in enumerate(LAYERS)]
    return {
        "forward_step": [{"z": vector(i, 0)} | at | {"noise": vector(i, 1)} for i, at in asked[:16]],
        "q_sample": [{"u": vector(i, 0)} | at | {"noise": vector(i, 1)} for i, at in asked],
        "kl_to_prior": [
            {"u": vector(i, 0), "alpha_bar_T": level} for i, level in enumerate((1e-4, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9))
        ],
        "posterior": [at for _, at in asked],
        "posterior_moments": [{"u": vector(i, 0), "z": vector(i, 1)} | at for i, at in asked[-12:]],
        "posterior_step": [{"u_hat": vector(i, 0), "z": vector(i, 1)} | at | {"noise": vector(i, 2)} for i, at in asked],
        "posterior_chain": [
            {"u_hats": rows(i, len(table) - 1), "z_T": vector(i, 1), "alpha_bar": table, "noises": rows(i + 4, len(table) - 1)}
            for i, table in enumerate(TABLES)
        ],
        "renoise_step": [{"u_hat": vector(i, 0)} | at | {"noise": vector(i, 1)} for i, at in asked[-12:]],
    }


def loss_inputs() -> dict[str, list[dict]]:
    """Group -> what its function is asked."""
    priors = ([0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.25, 0.25, 0.25], [0.4, 0.1, 0.3, 0.2])
    pairs = [{"u_hat": vector(i, 0), "u": vector(i, 1)} for i in range(20)]
    gammas = (-4.0, -2.5, -1.0, -0.25, 0.0, 0.5, 1.5, 3.0, 5.0)
    return {
        "expected_embedding": [{"logits": numbers(i, 3 + i % 3), "W": rows(i, 3 + i % 3)} for i in range(8)],
        "ideal_denoiser": [
            {"z": vector(i, 0), "alpha_bar_t": level, "W": rows(i, len(priors[i % 4])), "prior": priors[i % 4]}
            for i, level in enumerate((0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.6, 0.75))
        ],
        "nearest_class": [{"z": vector(i, 0), "W": rows(i, 3 + i % 3)} for i in range(9)],
        "squared_error": pairs[:8],
        "readout_loss": [{"logits": numbers(i, 2 + i % 5), "label": i % (2 + i % 5)} for i in range(9)],
        "dt_loss": [
            pairs[i] | {"alpha_bar": table, "t": t, "eta": (0.1, 0.5, 1.0)[i % 3]}
            for i, (table, t) in enumerate(CAPPED_LAYERS)
        ],
        "ct_loss": [
            pairs[i] | {"gamma": gamma, "rate": (2.0, 7.5, 12.0, 0.8)[i % 4], "eta": (1.0, 0.3)[i % 2]}
            for i, gamma in enumerate(gammas)
        ],
        "fm_loss": [{"v_hat": vector(i, 2), "u": vector(i, 0), "noise": vector(i, 1)} for i in range(8)],
    }


def continuous_inputs() -> dict[str, list[dict]]:
    """Group -> what its function is asked."""
    times = (0.0, 0.05, 0.25, 0.4, 0.5, 0.6, 0.8, 0.99, 1.0)
    gammas = (-4.0, -2.0, -0.7, 0.0, 0.3, 1.0, 2.5, 4.0)
    walks = [
        {"z": vector(i, 0), "num_steps": num_steps, "field": numbers(i + 3, 3)}
        for i, num_steps in enumerate((1, 2, 3, 4, 5, 8, 10, 25))
    ]
    return {
        "flow_state": [{"u": vector(i, 0), "noise": vector(i, 1), "t": t} for i, t in enumerate(times)],
        "flow_velocity": [{"u": vector(i, 0), "noise": vector(i, 1)} for i in range(6)],
        "probability_flow": [
            {"u_hat": vector(i, 0), "z": vector(i, 1), "gamma": gamma, "rate": (2.0, 10.0, 6.5)[i % 3]}
            for i, gamma in enumerate(gammas)
        ],
        "euler": walks,
        "heun": walks,
    }


def mapped(value, change: Callable):
    """A number changed, or a list with every number in it changed; integers stay."""
    return [mapped(item, change) for item in value] if isinstance(value, list) else change(value)


def exact(value):
    """Floats in plain data as the decimals that they are."""
    return mapped(value, lambda number: Decimal(number) if isinstance(number, float) else number)


def answer(formula: Callable, inputs: dict):
    """What a formula in decimals makes of inputs in plain data, as plain data again."""
    with decimal.localcontext(DIGITS):
        return plain(formula(**{name: exact(value) for name, value in inputs.items()}))


def plain(value):
    """Decimals as floats of 12 digits."""
    return mapped(value, lambda number: float(f"{number:.12g}") if isinstance(number, Decimal) else number)


def leaves(value) -> list:
    """The numbers in plain data, in their order."""
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def nudged(value) -> Iterator:
    """``value`` again and again, each time with one of its numbers moved by a unit in its last place; 0 and 1 are exact."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from ([*value[:i], moved, *value[i + 1 :]] for moved in nudged(item))
    elif isinstance(value, Decimal) and value not in (0, 1):
        yield value * (1 - LAST_PLACE)


def tolerance(formula: Callable, inputs: dict) -> float:
    """What single precision needs, rounded up to one digit."""
    with decimal.localcontext(DIGITS):
        given = {name: exact(value) for name, value in inputs.items()}
        expected = leaves(formula(**given))
        moves = [Decimal(0)] * len(expected)
        for name, value in given.items():
            for moved in nudged(value):
                answers = leaves(formula(**given | {name: moved}))
                moves = [move + Decimal(abs(new - old)) / max(1, abs(old)) for move, new, old in zip(moves, answers, expected)]
        digit = decimal.Context(prec=1, rounding=decimal.ROUND_UP)
        return max(LEAST_TOLERANCE, float(digit.plus(4 * max(moves))))


def equation(group: str) -> str:
    """Where a group's equation stands, or the equation itself where it has no number."""
    _, book, paper, computes = GROUPS[group]
    places = [f"book ({book})"] * bool(book) + [f"paper Eq. {paper}"] * bool(paper)
    return ", ".join(places) or computes


def vectors() -> Iterator[dict]:
    """All vectors: id, group, inputs, expected, tolerance, equation."""
    asked = schedule_inputs() | state_inputs() | loss_inputs() | continuous_inputs()
    for group, cases in asked.items():
        formula = GROUPS[group].formula
        for number, inputs in enumerate(cases, 1):
            known = {"expected": answer(formula, inputs), "tolerance": tolerance(formula, inputs)}
            yield {"id": f"{group}-{number:02}", "group": group, "inputs": inputs, **known, "equation": equation(group)}


def document() -> str:
    """The file's text: a line for every vector."""
    groups = {name: group.computes for name, group in GROUPS.items()}
    lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in vectors())
    return f'{{"about": {json.dumps(ABOUT)},\n"groups": {json.dumps(groups, indent=1)},\n"vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
    print(f"{FILE.name}: {len(list(vectors()))} vectors, {FILE.stat().st_size:,} bytes")
