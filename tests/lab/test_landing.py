"""The landing page's pictures: what lies in the book is what the code draws from the record today."""

import re

import pytest

from noprop_helpers import NoPropError
from noprop_helpers.lab.landing import STATIC, darkened, pictures, sudoku_picture


@pytest.mark.parametrize("name", ["method-dark.svg", "method-narrow-dark.svg", "sudoku.svg", "sudoku-dark.svg"])
def test_stored_pictures_are_what_the_code_draws(name):
    assert (STATIC / name).read_text(encoding="utf-8") == pictures()[name], "run python -m noprop_helpers.lab.landing"


def test_the_drawing_for_phones_says_what_the_other_says():
    wide, narrow = (
        re.findall(r"<text.*?</text>|<title>.*?</title>", (STATIC / f"{name}.svg").read_text(encoding="utf-8"))
        for name in ("method", "method-narrow")
    )
    words = [[re.sub("<.*?>", "", text) for text in texts] for texts in (wide, narrow)]
    assert sorted(words[0]) == sorted(words[1])


def record_of(*shares):
    """By layer, from layer 1 to the top."""
    return {"summary": {"chain": {"by_layer": [{"valid": {"mean": share}} for share in shares]}}}


def test_bars_are_as_high_as_the_shares_of_the_record_from_the_top_layer_down():
    svg = sudoku_picture(record_of(0.9, 0.5, 0.25))
    heights = [float(h) for h in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', svg)]
    assert heights == [40.0, 80.0, 144.0]
    assert re.findall(r">(\d+ %)<", svg) == ["25 %", "90 %"]
    assert "layer 3" in svg


def test_dark_drawings_turn_ink_and_sheet_and_keep_digits():
    light = '<rect fill="#fbfcfd"/><rect rx="3" fill="#22272e"/><path stroke="#fff"/><text fill="#22272e">7</text>'
    assert darkened(light) == '<rect fill="#1b2027"/><rect rx="3" fill="#000"/><path stroke="#fff"/><text fill="#e3e8ed">7</text>'


def test_a_colour_without_a_dark_counterpart_is_named():
    with pytest.raises(NoPropError, match="#123456"):
        darkened('<rect fill="#123456"/>')
