"""Every number that claims a result names its record and agrees with it, and no number changes unseen.

In Markdown, a percentage or a time in seconds is followed by a comment that readers do not see, and any other number may be:

    reaches 99.2 %<!-- record: mnist_shared summary.test_accuracy.mean -->
    shows 30 %<!-- cited: README of the published notebook -->
    in 0.077<!-- record: bench_cpu rows.0.ratio --> of the time

Where no comment can stand, in the description of a picture, ``READ_OFF`` below names the record. What is left, settings, examples,
derivations, what others report, what a live cell comes to and its assert holds, is listed page by page in tests/numbers.txt.
"""

import copy
import functools
import re
from pathlib import Path

import nbformat
import pytest

from noprop_helpers.lab.records import read_record

ROOT = Path(__file__).parent.parent
BOOK = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "book").glob("*.ipynb"))]
SOURCES = [ROOT / "README.md", ROOT / "llms.txt", *BOOK]
MORE_UNITS = r"percentage points|points|per ?cent|times|minutes|hours|ms|µs|[kMG]B|"
# A percentage or seconds with or without a source; any other number with one.
NUMBER = re.compile(
    rf"(?<![\w.])(\d+(?:\.\d+)?)\s?(%|s\b|seconds\b|(?:{MORE_UNITS})(?=\s*<!-- (?:record|cited): ))"
    r"(?:\s*<!-- (record|cited): (.*?) -->)?",
    re.S,
)
# Decimals, and what has a unit: the numbers that could claim something.
LOOSE = re.compile(rf"(?<![\w.,])\d+(?:\.\d+(?!\.?\d)|(?=\s?(?:%|(?:{MORE_UNITS.rstrip('|')})\b)))")
# What a picture's description says of a record: page, words that stand there, its number, where it comes from. "1 - " before a
# path is an error for an accuracy.
READ_OFF = [
    ("05-the-published-notebook", "layer 1 near 10 percent", "mnist_audit", "summary.published.layer_alone_accuracy.0.mean"),
    ("05-the-published-notebook", "layer 2 near 43 percent", "mnist_audit", "summary.published.layer_alone_accuracy.1.mean"),
    ("05-the-published-notebook", "a dashed line near 80 percent", "mnist_audit", "summary.published.test_accuracy.mean"),
    ("05-the-published-notebook", "published, near 74 percent", "mnist_audit", "summary.published.test_accuracy_after_epoch.10.mean"),
    ("05-the-published-notebook", "dot near 80 percent", "mnist_audit", "summary.published.test_accuracy_after_epoch.50.mean"),
    ("05-the-published-notebook", "trained encoder at 99 percent", "mnist_audit", "summary.trained.test_accuracy.mean"),
    ("07-what-the-layers-are-for", "and 29 per cent", "sudoku", "summary.opponents.one_longer.valid.mean"),
    ("07-what-the-layers-are-for", "noise at about 56,", "sudoku", "summary.chain.noisy.valid.mean"),
    ("07-what-the-layers-are-for", "both at about 90.", "sudoku", "summary.chain.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "flat at 17 per cent", "sudoku", "summary.chain.top.valid.mean"),
    ("07-what-the-layers-are-for", "flat at 90 after", "sudoku", "summary.chain.quiet.valid.mean"),
    ("15-a-referees-questions", "rises from 31 per cent", "sudoku", "summary/chain/by_share/0.3/quiet/valid/mean"),
    ("15-a-referees-questions", "to 96. Right", "sudoku", "summary/chain/by_share/0.8/top/valid/mean"),
    ("15-a-referees-questions", "falls from 90 per cent", "sudoku", "summary/chain/by_noise_scale/0.0/valid/mean"),
    ("15-a-referees-questions", "noise to 55 with", "sudoku", "summary/chain/by_noise_scale/1.0/valid/mean"),
    ("15-a-referees-questions", "noise at about 90 per cent", "sudoku", "summary.chain.quiet.valid.mean"),
    ("15-a-referees-questions", "told the level at 95", "sudoku_rivals", "summary.opponents.tied.valid.mean"),
    ("07-what-the-layers-are-for", "chain with symbols 86 per cent", "sudoku_pictures", "summary.symbols.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with pictures 78 per cent", "sudoku_pictures", "summary.patches.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with noise 49 per cent", "sudoku_pictures", "summary.patches.noisy.valid.mean"),
    ("07-what-the-layers-are-for", "longer, 23 per cent", "sudoku_pictures", "summary.one_longer.valid.mean"),
    ("07-what-the-layers-are-for", "the top layer at 16 per cent", "sudoku_pictures", "summary.patches.top.valid.mean"),
    ("07-what-the-layers-are-for", "with symbols 57 per cent", "sudoku_pictures_large", "summary.symbols.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with pictures 44 per cent", "sudoku_pictures_large", "summary.patches.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with noise 9 per cent", "sudoku_pictures_large", "summary.patches.noisy.valid.mean"),
    ("07-what-the-layers-are-for", "longer, 2 per cent", "sudoku_pictures_large", "summary.one_longer.valid.mean"),
    ("07-what-the-layers-are-for", "top layer alone 2 per cent", "sudoku_pictures_large", "summary.patches.top.valid.mean"),
    ("07-what-the-layers-are-for", "with symbols 47 per cent", "sudoku_pictures_large_slower", "summary.symbols.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with pictures 37 per cent", "sudoku_pictures_large_slower", "summary.patches.quiet.valid.mean"),
    ("07-what-the-layers-are-for", "with noise 7 per cent", "sudoku_pictures_large_slower", "summary.patches.noisy.valid.mean"),
    ("07-what-the-layers-are-for", "longer, 3 per cent", "sudoku_pictures_large_slower", "summary.one_longer.valid.mean"),
    ("07-what-the-layers-are-for", "the top layer alone 1 per cent", "sudoku_pictures_large_slower", "summary.patches.top.valid.mean"),
    ("11-the-papers-tables", "start at 84,", "mnist_ct_one_hot_short", "1 - summary.test_accuracy_by_steps.1.mean"),
    ("11-the-papers-tables", "81 and", "mnist_ct_learned_short", "1 - summary.test_accuracy_by_steps.1.mean"),
    ("11-the-papers-tables", "and 39 per cent", "mnist_ct_prototype_short", "1 - summary.test_accuracy_by_steps.1.mean"),
]
LISTED = ROOT / "tests" / "numbers.txt"


def prose(path):
    """Markdown without what is not prose: code, mathematics, tables' cells stay."""
    if path.suffix == ".ipynb":
        text = "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    else:
        text = path.read_text()
    text = re.sub(r"^(```+).*?^\1", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def described(path):
    """What those read who do not see the pictures: alternative texts in a page and in the metadata of a notebook's cells."""
    if path.suffix != ".ipynb":
        return re.findall(r"^:alt: (.*)$", path.read_text(), re.M)
    told = [cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "") for cell in nbformat.read(path, as_version=4).cells]
    return [text for text in told if text]


def loose(path):
    """Numbers that name no record, in the order of the page; those of descriptions last."""
    text = re.sub(r"\]\([^)]*\)|<!-- (?!record|cited).*?-->", "", prose(path), flags=re.S)
    text = NUMBER.sub(lambda match: "" if match[3] == "record" else match[0], text)
    return LOOSE.findall(text) + LOOSE.findall("\n".join(described(path)))


def listed():
    """tests/numbers.txt: page -> numbers."""
    lines = [line.partition(":") for line in LISTED.read_text().splitlines() if line and not line.startswith("#")]
    return {page: numbers.split() for page, _, numbers in lines}


def lookup(record, path):
    """Value at a dotted path; list positions are numbers."""
    for key in path.split("/" if "/" in path else "."):  # a key that holds a dot itself
        record = record[int(key)] if isinstance(record, list) else record[key]
    return record


def wrong_claims(text, read=read_record):
    wrong = []
    for match in NUMBER.finditer(text):
        number, unit, kind, source = match.groups()
        said = f"{number} {unit}"
        if kind is None:
            wrong.append(f"{said!r} names no record: ...{text[max(0, match.start() - 60) : match.end()]}")
        elif kind == "record":
            name, path = source.split()
            value = lookup(read(name), path) * (100 if re.match("%|per ?cent|.*points", unit) else 1)
            if f"{value:.{len(number.partition('.')[2])}f}" != number:
                wrong.append(f"{said!r}, but {name} {path} is {value:.4f}")
    return wrong


def wrong_descriptions(texts, claims, read=read_record):
    """What descriptions of pictures say and records do not. ``texts``: page -> its descriptions."""
    wrong = []
    for page, words, name, path in claims:
        (number,) = re.findall(r"(?<!layer )\b\d+", words)
        value = lookup(read(name), path.removeprefix("1 - "))
        value = 100 * (1 - value if path.startswith("1 - ") else value)
        if not any(words in text for text in texts[page]):
            wrong.append(f"{page}: no picture is described by {words!r}")
        elif f"{value:.0f}" != number:
            wrong.append(f"{page}: {words!r}, but {name} {path} is {value:.2f}")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_numbers_in_prose_agree_with_their_records(path):
    assert wrong_claims(prose(path)) == []


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_other_number_changes_unseen(path):
    """Those that claim no result are listed; a new one is written there, or given its record."""
    now = loose(path)
    assert listed().get(path.name, []) == now, f"in tests/numbers.txt write\n{path.name}: {' '.join(now)}"


def descriptions():
    return {path.stem: described(path) for path in BOOK}


def test_pictures_are_described_as_their_records_have_it():
    assert wrong_descriptions(descriptions(), READ_OFF) == []


# --- The checks can fail: one digit, in any number and in any field that is claimed ---


def next_digit(text, at):
    return f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_one_digit_of_any_claimed_number_is_seen(path):
    text = prose(path)
    for match in NUMBER.finditer(text):
        for at in range(*match.span(1)):
            if text[at].isdigit() and match[3] == "record":
                assert len(wrong_claims(next_digit(text, at))) == 1, match[0]


def one_off(record, path, scale, digits):
    """A copy of a record whose value at a path is off by one in the last digit that is claimed."""
    record = copy.deepcopy(record)
    *inside, last = path.split("/" if "/" in path else ".")
    place = functools.reduce(lambda value, key: value[int(key) if isinstance(value, list) else key], inside, record)
    place[int(last) if isinstance(place, list) else last] += 10.0**-digits / scale
    return record


def test_one_digit_of_any_claimed_field_is_seen():
    claimed = {match for path in SOURCES for match in NUMBER.findall(prose(path)) if match[2] == "record"}
    assert len(claimed) > 20
    for number, unit, _, source in claimed:
        name, path = source.split()
        scale, digits = (100 if unit == "%" else 1), len(number.partition(".")[2])
        text = f"{number} {unit}<!-- record: {source} -->"
        assert wrong_claims(text) == []
        assert len(wrong_claims(text, read=lambda name: one_off(read_record(name), path, scale, digits))) == 1, text


def test_one_digit_of_any_description_and_of_its_field_is_seen():
    texts = descriptions()
    for claim in READ_OFF:
        page, words, name, path = claim
        at = re.search(r"(?<!layer )\b\d+", words).start()
        other = {page: [text.replace(words, next_digit(words, at)) for text in texts[page]]}
        assert len(wrong_descriptions(other, [claim])) == 1, claim
        read = functools.partial(one_off, read_record(name), path.removeprefix("1 - "), 100, 0)
        assert len(wrong_descriptions(texts, [claim], lambda name: read())) == 1, claim


def test_one_digit_of_any_other_number_is_seen(tmp_path):
    """In a page of ours with each kind of number; the list holds them in their order."""
    page = tmp_path / "page.md"
    page.write_text("It loses 3 points, in 0.077 of 12 ms, layer 3, Python 3.10.\n\n:alt: near 97 per cent, from 1.41\n")
    text, before = page.read_text(), loose(page)
    assert before == ["3", "0.077", "12", "3.10", "97", "1.41"] or before == ["3", "0.077", "12", "3.10", "97", "1.41", "97", "1.41"]
    changed = 0
    for at, sign in enumerate(text):
        if sign.isdigit():
            page.write_text(next_digit(text, at))
            changed += loose(page) != before
    assert changed == 15  # all but the 3 of a layer's name, which is no result


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("reaches 99 % on MNIST", "names no record"),
        ("takes 12.5 seconds", "names no record"),
        ("98.4 %<!-- record: r a.mean -->", "is 98.7600"),
        ("98.76 %<!-- record: r a.mean -->", None),
        ("98.8 %\n<!-- record: r a.mean -->", None),
        ("30 %<!-- cited: README -->", None),
        ("2 students, 10x, step 3", None),
        ("in 0.99<!-- record: r a.mean --> of the time", None),
        ("in 0.98<!-- record: r a.mean --> of the time", "is 0.9876"),
        ("98.8 percentage points<!-- record: r a.mean -->", None),
    ],
)
def test_the_check_can_fail(text, complaint):
    found = wrong_claims(text, read=lambda name: {"a": {"mean": 0.9876}})
    assert (complaint is None) == (found == []) and all(complaint in line for line in found)
