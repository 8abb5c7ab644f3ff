"""All test images of a record with what was said of them, mistakes first (chapter 4)."""

import re

from IPython.display import HTML

from . import frame

STRIP = 8  # images in the row above
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
EVERY = 10  # the choice of no class


def prediction_browser(record: dict, name: str = "predictions") -> HTML:
    """The test images of ``read_record("digits_walks")`` with their true class, the answer of the chain without noise, and the
    probabilities of its last layer: mistakes first, then the least sure."""
    images = in_order(record["runs"][0]["shown"]["predictions"])
    mistakes = sum(one["label"] != one["says"] for one in images)
    one, label = images[0], images[0]["label"]
    classes = [f"true class {label}" for label in range(10)] + ["every class"]
    parts = [
        _strip(name, images[:STRIP]),
        frame.body(
            frame.answer(name, "An image and the answer", one["image"], frame.a(label), "the chain says", str(one["says"])),
            frame.belief(name, "Probabilities", "what the last layer believes", frame.points(one["belief"]), label),
            frame.controls([frame.choice("label", "show", classes, EVERY)]),
            frame.controls(frame.stepper("image", "image", 1, len(images), 1, plays=False)),
        ),
    ]  # fmt: skip
    data = {"images": [packed(one) for one in images]}
    help = f"{mistakes} of {len(images)} test images are misread. They come first, then the others, the least sure first."
    return frame.figure("predictions", name, says(one, 1, len(images)), parts, data, help)


def in_order(predictions: list[dict]) -> list[dict]:
    """Mistakes first; within them, and within the others, the least sure first.

    >>> right, wrong = {"label": 1, "says": 1, "belief": "0 1"}, {"label": 1, "says": 0, "belief": "1 0"}
    >>> [one["says"] for one in in_order([right, wrong])]
    [0, 1]
    """
    return sorted(predictions, key=lambda one: (one["label"] == one["says"], max(frame.points(one["belief"]))))


def says(one: dict, number: int, count: int) -> str:
    """What was said of an image, in words."""
    sure = 100 * max(frame.points(one["belief"]))
    verdict = "right" if one["label"] == one["says"] else f"wrong: it is {frame.a(one['label'])}"
    return f"Image {number} of {count}: the chain says {one['says']}, with {sure:.1f} %, {verdict}."


def packed(one: dict) -> str:
    """An image in few characters: its class, what was said, three characters for each class whose probability can be seen, a
    space, and the pixels, a run of 0 as one capital letter."""
    thousandths = [round(1000 * p) for p in frame.points(one["belief"])]
    belief = "".join(f"{k}{DIGITS[p // 36]}{DIGITS[p % 36]}" for k, p in enumerate(thousandths) if p >= 5)
    pixels = re.sub("0{2,26}", lambda run: chr(ord("A") + len(run[0]) - 2), one["image"])
    return f"{one['label']}{one['says']}{belief} {pixels}"


# --- Drawings ---------------------------------------------------------------------------------------------------------


def _caption(one: dict) -> str:
    return f"{one['label']} → {one['says']}" if one["label"] != one["says"] else str(one["label"])


def _strip(name: str, images: list[dict]) -> str:
    """A row of images, the true class under each, and after an arrow what is said, where that is wrong."""
    step = 640 / STRIP
    drawn = [
        f'<g data-at="{i}">{frame.digit(one["image"], i * step + 10, 2, 60)}'
        f"{frame.text((i + 0.5) * step, 82, _caption(one))}</g>"
        for i, one in enumerate(images)
    ]
    description = "Under each image its true class and, after an arrow, what the chain says, where that is wrong."
    frame_around = '<path class="nph-chosen" transform="translate(0)" d="M4 0h72v90h-72z"/>'
    return frame.svg("strip", name, "Test images, mistakes first", description, 92, *drawn, frame_around, width=640)
