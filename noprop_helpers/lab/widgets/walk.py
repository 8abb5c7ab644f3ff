"""Inference step by step: a digit, what the layer that has just spoken believes, the state that it hands on (chapter 4)."""

from html import escape

from IPython.display import HTML

from . import frame

WAYS = {"noisy_1": "noise", "noisy_2": "other noise", "quiet": "no noise"}
STATE = 76, 22, 156  # as frame.BELIEF


def walk(record: dict, name: str = "walk", chosen: int = 0, step: int = 1) -> HTML:
    """The recorded walks of some digits, of ``read_record("digits_walks")``: at first that of one ``chosen``, after ``step``
    layers have spoken, with noise."""
    shown, results = (record["runs"][0][part] for part in ("shown", "results"))
    walks = shown["walks"]
    num_layers = len(walks[0]["quiet"]["beliefs"])
    if not (0 <= chosen < len(walks) and 0 <= step <= num_layers):
        raise ValueError(f"expected chosen below {len(walks)} and step up to {num_layers}, got {chosen} and {step}")
    one = walks[chosen]
    states, beliefs = (list(map(frame.points, one["noisy_1"][part])) for part in ("states", "beliefs"))
    belief = beliefs[step - 1] if step else None
    answer = "?" if belief is None else str(_likeliest(belief))
    parts = [
        _picks(walks, chosen),
        frame.body(
            frame.answer(name, "The image and the answer so far", one["image"], "the image", "the answer so far", answer),
            frame.belief(name, "What the layer believes", "its belief", belief or [0.0] * 10, one["label"]),
            _state(name, states[step], one["label"]),
            frame.controls(
                [frame.toggle("way", "the walk adds, at every step,", name, list(WAYS.values()))],
                frame.stepper("step", "after", 0, num_layers, step),
            ),
        ),
    ]
    data = {
        "digits": [[walk["label"], walk["image"], [[_cents(walk[way]["states"], 100), _cents(walk[way]["beliefs"], 1000)]
                                                  for way in WAYS]] for walk in walks],
        "about": [about(walk, results) for walk in walks], "step": step,
    }  # fmt: skip
    help = "Left the image, then what the layer that has just spoken believes, and the state that it hands to the next one."
    return frame.figure("walk", name, says(one, belief, step, num_layers) + " " + about(one, results), parts, data, help)


def says(one: dict, belief: list[float] | None, step: int, num_layers: int) -> str:
    """What has come of a walk after so many steps, in words; ``belief`` [10] of the layer that has just spoken."""
    if belief is None:
        return f"Nothing is said yet: layer {num_layers} will see the image, and pure noise."
    answer, label, left = _likeliest(belief), one["label"], num_layers - step
    verdict = "" if label < 0 else ", which is right" if answer == label else f", but it is {frame.a(label)}"
    end = f"{left} layer{'s' * (left != 1)} to go." if left else "The walk is over."
    return f"Layer {left + 1} says {answer}, with {100 * max(belief):.1f} %{verdict}. {end}"


def about(one: dict, results: dict) -> str:
    """What is remarkable about an image."""
    if one["why"] == "blend":
        noisy, quiet = ([round(500 * results["blend"][way][label]) for label in (4, 9)] for way in ("noisy", "quiet"))
        return (
            "This is 45 parts of a 4 laid over 55 parts of a 9. Of 500 walks with noise, "
            f"{noisy[0]} end at 4 and {noisy[1]} at 9; of 500 without, {quiet[0]} and {quiet[1]}."
        )
    notes = {"mended": "The top layer misreads this one; the chain mends it.", "wrong": "All three walks end wrong."}
    return notes.get(one["why"], "")


def _likeliest(belief: list[float]) -> int:
    return belief.index(max(belief))


def _cents(lines: list[str], unit: int) -> list[list[int]]:
    """Lines of numbers as whole hundredths or thousandths."""
    return [[round(unit * value) for value in frame.points(line)] for line in lines]


# --- Drawings ---------------------------------------------------------------------------------------------------------


def _picks(walks: list[dict], chosen: int) -> str:
    """A button for every image; its digit is drawn by the script."""
    names = {"blend": "a blend of a 4 and a 9", "mended": "{}, misread at first", "wrong": "{}, misread to the end"}
    buttons = (
        f'<button type="button" data-pick="{i}" aria-pressed="{"true" if i == chosen else "false"}" '
        f'aria-label="{escape(names.get(one["why"], "{}").format(frame.a(one["label"])))}">'
        '<svg viewBox="0 -.5 8 8" aria-hidden="true"><g class="nph-digit"></g></svg></button>'
        for i, one in enumerate(walks)
    )
    return f'<div class="nph-controls nph-picks">{"".join(buttons)}</div>'


def _state(name: str, state: list[float], label: int) -> str:
    description = "Ten bars, one a class: numbers around 0 that become a 1 and zeros."
    above = frame.head("the state it hands on") + frame.scale("around 0")
    drawn = frame.bars("state", state, label, *STATE)
    return frame.svg("state", name, "The state that is handed on", description, 160, above, drawn)
