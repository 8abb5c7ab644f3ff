"""The interactive figures: what Python draws of them, and what their scripts do in a browser, without any other host."""

import html.parser
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CHROMIUM
from PIL import Image

from noprop_helpers.lab.records import read_record
from noprop_helpers.lab.widgets import film, frame, predictions, schedule
from noprop_helpers.lab.widgets import walk as walks
from noprop_helpers.lab.widgets.film import sudoku_film
from noprop_helpers.lab.widgets.predictions import prediction_browser
from noprop_helpers.lab.widgets.schedule import KINDS, schedule_explorer
from noprop_helpers.lab.widgets.walk import walk
from noprop_helpers.schedules import LearnedGamma, alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas

ROOT = Path(__file__).parent.parent

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
DIGITS, SUDOKUS = read_record("digits_walks"), read_record("sudoku_walks")
FIGURES = {
    "schedule": lambda **how: schedule_explorer(**how),
    "walk": lambda **how: walk(DIGITS, **how),
    "predictions": lambda **how: prediction_browser(DIGITS, **how),
    "sudoku": lambda **how: sudoku_film(SUDOKUS, **how),
}
each_figure = pytest.mark.parametrize("name", FIGURES)
SHOWN = DIGITS["runs"][0]["shown"]
PUZZLES = SUDOKUS["runs"][0]["shown"]["puzzles"]


def drawings(text):
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]


# --- What Python draws ------------------------------------------------------------------------------------------------


@each_figure
def test_a_figure_is_small_and_the_same_every_time(name):
    text = FIGURES[name]().data
    assert len(text.encode()) <= 40_000
    assert text == FIGURES[name]().data and text != FIGURES[name](name="another").data


@each_figure
def test_a_figure_is_well_formed_and_needs_nothing_from_elsewhere(name):
    class Parser(html.parser.HTMLParser):
        open, ids = [], []

        def handle_starttag(self, tag, attributes):
            self.ids += [value for key, value in attributes if key == "id"]
            if tag not in ("input", "rect", "path"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert tag in ("rect", "path") or self.open.pop() == tag

    text, parser = FIGURES[name]().data, Parser()
    parser.open, parser.ids = [], []
    parser.feed(text)
    assert parser.open == [] and len(set(parser.ids)) == len(parser.ids) and all(name in one for one in parser.ids)
    json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    assert not re.search(r"https?:|//|fetch|\bimport[ (]|\bsrc=|\bhref=|Math\.random|type=.module", text)
    assert text.count("<script>") == 1 and text.count('aria-live="polite"') == 1


@each_figure
def test_every_drawing_says_what_it_is(name):
    found = [svg for svg in drawings(FIGURES[name]().data) if svg.get("aria-hidden") != "true"]
    assert len(found) >= 2
    for svg in found:
        titles = [svg.find("title"), svg.find("desc")]
        assert svg.get("role") == "img" and all(len(title.text) > 10 for title in titles)
        assert [svg.get("aria-labelledby"), svg.get("aria-describedby")] == [title.get("id") for title in titles]


def bars_of(text, key):
    """Values of the bars in a drawing, in its units: up is positive."""
    (group,) = [g for svg in drawings(text) for g in svg.iter("g") if g.get("data-bars") == key]
    return [(float(rect.get("y")), float(rect.get("height"))) for rect in group]


def test_what_is_drawn_without_a_script_is_what_was_recorded():
    text = walk(DIGITS, chosen=2, step=10).data
    one = SHOWN["walks"][2]
    for key, numbers, (zero, unit, _) in (
        ("belief", one["noisy_1"]["beliefs"][9], frame.BELIEF),
        ("state", one["noisy_1"]["states"][10], walks.STATE),
    ):
        drawn = [(zero - y if y < zero else -height) / unit for y, height in bars_of(text, key)]
        assert drawn == pytest.approx([float(number) for number in numbers.split()], abs=0.05 / unit + 1e-9)
    assert "All three walks end wrong" in text and "The walk is over." in text
    assert "Nothing is said yet" in walk(DIGITS, step=0).data
    board = drawings(sudoku_film(SUDOKUS, chosen=0).data)[0]
    assert "".join(cell.text for cell in board.iter("text")) == PUZZLES[0]["solution"]
    assert "no cell breaks the rules. In what the top layer says alone, 12 cells" in sudoku_film(SUDOKUS).data


def test_all_bars_stay_in_their_drawings():
    zero, unit, _ = walks.STATE
    states = [frame.points(state) for one in SHOWN["walks"] for way in walks.WAYS for state in one[way]["states"]]
    assert 16 < zero - unit * max(map(max, states)) and zero - unit * min(map(min, states)) < 146
    ends = [schedule.BARS[0] - schedule.BARS[1] * value for value in schedule.NOISE]
    assert 20 < min(ends) and max(ends) < 145


def test_the_pictures_are_those_of_the_record():
    one = SHOWN["predictions"][0]
    group = ET.fromstring(frame.digit(one["image"]))
    dark = {}
    for path in group:
        for x, y in re.findall(r"M(\d) (\d)h1", path.get("d")):
            dark[int(y) * 8 + int(x)] = round(16 * float(path.get("opacity")))
    assert [dark.get(i, 0) for i in range(64)] == [frame.LEVELS.index(level) for level in one["image"]]


def test_mistakes_come_first_and_nothing_is_lost():
    ordered = predictions.in_order(SHOWN["predictions"])
    mistaken = [one["label"] != one["says"] for one in ordered]
    assert sorted(mistaken, reverse=True) == mistaken and 0 < sum(mistaken) < 20 and len(ordered) == 360
    sure = [max(frame.points(one["belief"])) for one in ordered[sum(mistaken) :]]
    assert sorted(sure) == sure


def test_wrong_calls_say_what_is_expected():
    for call in (
        lambda: schedule_explorer(num_steps=51), lambda: schedule_explorer(kind=3), lambda: schedule_explorer(t=11),
        lambda: walk(DIGITS, chosen=8), lambda: walk(DIGITS, step=11), lambda: sudoku_film(SUDOKUS, step=0),
        lambda: sudoku_film(SUDOKUS, name="No name"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="^expected [^\n]*got [^\n]*$"):
            call()


def test_scripts_and_style_sheets_are_part_of_the_package():
    told = (ROOT / "pyproject.toml").read_text()
    kinds = {path.suffix for path in frame.HERE.iterdir() if path.suffix not in (".py", "")}
    assert kinds == {".css", ".js"} and '"noprop_helpers.lab.widgets" = ["*.css", "*.js"]' in told
    assert yaml.safe_load(re.search(r"^packages = (.*)$", told, re.M)[1])[-1] == "noprop_helpers.lab.widgets"


# --- In a browser -----------------------------------------------------------------------------------------------------

# The book's theme, as far as the figures know it; and the dark page says that it is dark, whatever the system likes.
THEME = """<style>
html[data-theme=light] { --pst-color-background: #fff; --pst-color-text-base: #22272e; --pst-color-surface: #f5f7f9;
  --pst-color-border: #c9c9c9; --pst-color-text-muted: #48566b; }
html[data-theme=dark] { --pst-color-background: #14181d; --pst-color-text-base: #d5dbe1; --pst-color-surface: #1e242c;
  --pst-color-border: #39424d; --pst-color-text-muted: #9ca4af; }
body { background: var(--pst-color-background); color: var(--pst-color-text-base); }
</style>"""
PAGE = """<!doctype html><html lang="en"{mode}><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">{head}</head><body>{body}</body></html>"""

# Contrast of every visible text with the nearest opaque background behind it (WCAG 2); SVG text is filled, not coloured.
CONTRASTS = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const found = [];
  for (const e of document.querySelectorAll(".nph *")) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join("");
    if (!text || !e.checkVisibility() || /^(title|desc|script|style|option)$/i.test(e.tagName)) continue;
    let b = e, back;
    for (; b; b = b.parentElement) {
      back = parse(getComputedStyle(b).backgroundColor);
      if (back.length === 3 || back[3] > .9) break;
    }
    const style = getComputedStyle(e), opacity = Number(style.opacity);
    const full = parse(e.ownerSVGElement ? style.fill : style.color).slice(0, 3);
    const ink = full.map((v, i) => opacity * v + (1 - opacity) * back[i]);
    const [x, y] = [light(ink), light(back.slice(0, 3))];
    found.push([e.textContent.slice(0, 30), opacity, (Math.max(x, y) + .05) / (Math.min(x, y) + .05)]);
  }
  return found;
}"""

# All that is drawn: tag, attributes and text of every shape.
SHAPES = """() => [...document.querySelectorAll(".nph-svg, .nph-svg *")].map(e =>
  [e.tagName, Object.fromEntries([...e.attributes].map(a => [a.name, a.value])), e.children.length ? "" : e.textContent])"""


@pytest.fixture
def show(browser, tmp_path):
    """show(HTML, ...) opens figures in a page from disk; nobody may complain, and nothing may be asked of another host."""
    complaints, contexts = [], []

    def show(*figures, head="", mode="", body=None, **how):
        body = body or "\n".join(figure.data for figure in figures)
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(PAGE.format(head=head, mode=mode, body=body))
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 900}} | how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file://", "about:")) or complaints.append(r.url))
        page.goto(path.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []


def says(page, name):
    return page.locator(f"#nph-{name} .nph-says").inner_text()


def tour(page, name, moves):
    """Set controls, [(key, value), ...], as a reader would, without the way there: what the figure says after each."""
    return page.evaluate(
        """([name, moves]) => moves.map(([key, value]) => {
          const all = [...document.querySelectorAll(`#nph-${name} [data-key="${key}"]`)];
          const one = all[0].type === "radio" ? all[value] : all[0];
          if (one.type === "radio") one.checked = true; else one.value = value;
          one.dispatchEvent(new Event("input", { bubbles: true }));
          return document.querySelector(`#nph-${name} .nph-says`).textContent;
        })""",
        [name, moves],
    )


def move(page, name, key, value):
    return tour(page, name, [(key, value)])[0]


@in_browser
@each_figure
def test_without_scripts_the_drawings_are_there_and_no_dead_control(show, name):
    page = show(FIGURES[name](), java_script_enabled=False)
    assert page.locator(".nph-svg").count() >= 2 and page.locator(".nph-svg").first.bounding_box()["height"] > 40
    assert not page.locator(".nph-controls").first.is_visible() and len(says(page, name)) > 40


@in_browser
@each_figure
def test_the_script_begins_with_what_python_drew(show, name):
    """Shape for shape; numbers up to their last digit."""
    still = show(FIGURES[name](), java_script_enabled=False)
    live = show(FIGURES[name]())
    assert live.locator(".nph[data-live]").count() == 1
    assert says(still, name) == says(live, name)
    drawn, script = still.evaluate(SHAPES), live.evaluate(SHAPES)
    assert len(drawn) == len(script) > 30
    number = re.compile(r"-?\d*\.?\d+")
    for (tag, one, text), (other_tag, other, other_text) in zip(drawn, script):
        assert (tag, text, one.keys()) == (other_tag, other_text, other.keys())
        for key in one:
            assert number.sub("#", one[key]) == number.sub("#", other[key])
            numbers = [[float(found) for found in number.findall(value)] for value in (one[key], other[key])]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.101), (tag, key)


# --- The schedule explorer ---


def tables():
    for T in (2, 3, 10, 50):
        for clean, noisy in ((0.9999, 1e-4), (0.9, 0.3)):
            yield 0, T, clean, noisy, cosine_alpha_bar(T, clean_end=clean, noise_end=noisy)
        for start, end in ((1.0, 0.1), (0.8, 0.9)):
            yield 1, T, start, end, alpha_bar_from_alphas(linear_alphas(T, start, end))
        for gamma_0, gamma_1 in ((-5.0, 5.0), (-10.0, 2.0)):
            straight = LearnedGamma(gamma_0, gamma_1).double()  # without its hidden units gamma is a straight line
            straight.raw_out.data.fill_(-60.0)
            times = torch.linspace(0, 1, T + 1, dtype=torch.float64)
            yield 2, T, gamma_0, gamma_1, torch.sigmoid(-straight(times).gamma).detach()


@in_browser
def test_the_formulas_of_the_page_are_those_of_the_package(show):
    page = show(schedule_explorer())
    for kind, T, first, last, expected in tables():
        got = page.evaluate(f"document.querySelector('.nph').alphaBar({kind}, {T}, {first}, {last})")
        torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected, rtol=1e-6, atol=1e-6)
        python = KINDS[kind].alpha_bar(T, first, last)
        torch.testing.assert_close(python, expected, rtol=1e-6, atol=1e-6)


@in_browser
def test_every_setting_of_a_schedule_is_answered_in_numbers(show):
    page = show(schedule_explorer())
    for kind, one in enumerate(KINDS):
        move(page, "schedule", "kind", kind)
        for T, t, first, last in ((2, 1, 0, 0), (50, 50, len(one.first.values) - 1, len(one.last.values) - 1), (10, 0, 1, 2)):
            for key, value in (("T", T), ("t", t), ("first", first), ("last", last)):
                move(page, "schedule", key, value)
            table = one.alpha_bar(T, one.first.values[first], one.last.values[last])
            assert says(page, "schedule") == schedule.says(table, t)
            z = table[t].sqrt() * torch.eye(10, dtype=torch.float64)[3] + (1 - table[t]).sqrt() * torch.tensor(schedule.NOISE)
            heights = page.evaluate("[...document.querySelectorAll('[data-bars] rect')].map(r => +r.getAttribute('height'))")
            assert heights == pytest.approx((z.abs() * schedule.BARS[1]).tolist(), abs=0.06)


@in_browser
def test_the_published_schedule_says_that_its_first_step_is_wasted(show):
    page = show(schedule_explorer(kind=1, t=1))
    assert says(page, "schedule") == "At t = 1 of 10: signal 1.000, noise 0.000, SNR infinite. Step 1 adds no noise at all."
    move(page, "schedule", "T", 20)  # the time keeps its place: halfway stays halfway
    move(page, "schedule", "t", 10)
    move(page, "schedule", "T", 50)
    assert says(page, "schedule").startswith("At t = 25 of 50:")


# --- The others: every place that a reader can reach says what Python says of it ---


@in_browser
def test_every_step_of_every_walk(show):
    page = show(walk(DIGITS))
    results = DIGITS["runs"][0]["results"]
    for i, one in enumerate(SHOWN["walks"]):
        page.locator(f"[data-pick='{i}']").click()
        for w, way in enumerate(walks.WAYS):
            move(page, "walk", "way", w)
            for step, said in enumerate(tour(page, "walk", [("step", step) for step in range(11)])):
                belief = frame.points(one[way]["beliefs"][step - 1]) if step else None
                assert said == walks.says(one, belief, step, 10) + " " + walks.about(one, results)
    assert page.locator("[aria-pressed=true]").count() == 1


@in_browser
def test_every_prediction_and_the_classes_apart(show):
    page = show(prediction_browser(DIGITS))
    ordered = predictions.in_order(SHOWN["predictions"])
    for label in (10, 3, 8):
        move(page, "predictions", "label", label)
        wanted = [one for one in ordered if label in (10, one["label"])]
        told = tour(page, "predictions", [("image", number + 1) for number in range(len(wanted))])
        assert told == [predictions.says(one, number, len(wanted)) for number, one in enumerate(wanted, 1)]
    page.locator("[data-at='0']").click()
    first = (len(wanted) - 1) // 8 * 8 + 1  # of the row that the last one stands in
    assert says(page, "predictions").startswith(f"Image {first} of {len(wanted)}:")


@in_browser
def test_every_layer_of_every_sudoku(show):
    page = show(sudoku_film(SUDOKUS))
    for p, one in enumerate(PUZZLES):
        move(page, "sudoku", "puzzle", p)
        for w, way in enumerate(film.WAYS):
            move(page, "sudoku", "way", w)
            steps = range(1, 51)
            told = tour(page, "sudoku", [("step", step) for step in steps])
            assert told == [film.says(one, way, step, 50) for step in steps]
            for step in (1, 20, 50):
                move(page, "sudoku", "step", step)
                cells = page.evaluate("[...document.querySelectorAll('.nph-chain .nph-cells text')].map(c => c.textContent)")
                assert "".join(cells) == one[way]["values"][step - 1]


# --- Hands ---

SLIDERS = {"schedule": "t", "walk": "step", "predictions": "image", "sudoku": "step"}


@in_browser
@each_figure
def test_by_keyboard(show, name):
    page = show(FIGURES[name]())
    before = says(page, name)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.key") == SLIDERS[name]:
            break
    assert page.evaluate("document.activeElement.type") == "range"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("ArrowLeft" if name == "sudoku" else "ArrowRight")
    after = says(page, name)
    told = page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
    assert after != before and told and any(character.isdigit() for character in told)
    page.keyboard.press("Home")
    assert says(page, name) != after
    page.keyboard.press("End")
    assert says(page, name) != before or name == "sudoku"


@in_browser
@pytest.mark.parametrize("name", ["walk", "predictions", "sudoku"])
def test_by_touch(show, name):
    page = show(FIGURES[name](), has_touch=True, viewport={"width": 390, "height": 844})
    before = says(page, name)
    back, on = ("on", "back") if name == "sudoku" else ("back", "on")
    page.locator(f"[data-do$='-{on}']").tap()
    there = says(page, name)
    assert there != before
    page.locator(f"[data-do$='-{back}']").tap()
    assert says(page, name) == before
    page.locator(f"[data-do$='-{back}']").tap()  # beyond the end there is nothing, and no error
    for target in page.locator("button:visible, select, .nph-toggle label, input[type=range]").all():
        box = target.bounding_box()
        assert box["height"] >= 30 and box["width"] >= 30


@in_browser
@each_figure
def test_sliders_by_touch(show, name):
    page = show(FIGURES[name](), has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    for target in page.locator("input[type=range], select").all():
        box = target.bounding_box()
        assert box["height"] >= 30 and box["width"] >= 30
    sliders = page.locator("input[type=range]").all()
    assert sliders
    for slider in sliders:
        box, told = slider.bounding_box(), []
        for share in (0.2, 0.7):
            slider.tap(position={"x": share * box["width"], "y": box["height"] / 2})
            told.append((slider.input_value(), slider.get_attribute("aria-valuetext")))
        assert int(told[0][0]) < int(told[1][0]) and told[0][1] != told[1][1]


@in_browser
def test_touched_choices(show):
    page = show(walk(DIGITS), has_touch=True, viewport={"width": 390, "height": 844})
    page.locator("[data-pick='5']").tap()
    assert "which is right" in says(page, "walk")
    page.locator(".nph-toggle label").nth(2).tap()
    assert page.locator(".nph-toggle input").nth(2).is_checked()


@in_browser
def test_playing_goes_to_the_end_stops_there_and_begins_again(show):
    page = show(walk(DIGITS))
    page.clock.install(time=0)
    page.clock.pause_at(60)  # from here on time goes only where this test says so
    play, output = page.locator("[data-do='step-play']"), page.locator(".nph-says")
    play.click()
    assert play.inner_text() == "Pause" and output.get_attribute("aria-live") == "off"
    page.clock.run_for(3000)
    assert page.locator("[data-key=step]").input_value() == "4"
    page.clock.run_for(60_000)
    assert "The walk is over." in says(page, "walk") and play.inner_text() == "Play"
    assert output.get_attribute("aria-live") == "polite"
    play.click()
    assert "Nothing is said yet" in says(page, "walk")
    play.click()
    page.clock.run_for(5000)
    assert "Nothing is said yet" in says(page, "walk")


@in_browser
@each_figure
def test_nothing_moves_where_the_reader_wants_rest(show, name):
    durations = "[...document.querySelectorAll('.nph-bar')].map(e => getComputedStyle(e).transitionDuration)"
    page = show(FIGURES[name](), reduced_motion="reduce")
    assert set(page.evaluate(durations)) <= {"0s"}
    assert all(not play.is_visible() for play in page.locator("[data-do$='-play']").all())
    if name != "sudoku":
        assert "0s" not in show(FIGURES[name]()).evaluate(durations)


# --- Places ---


@in_browser
def test_figures_on_one_page_do_not_disturb_each_other(show):
    figures = [make() for make in FIGURES.values()] + [schedule_explorer("second"), walk(DIGITS, "second-walk", chosen=3)]
    page = show(*figures)
    names = [*FIGURES, "second", "second-walk"]
    before = {name: says(page, name) for name in names}
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
    move(page, "second", "t", 9)
    move(page, "second-walk", "way", 2)
    move(page, "second-walk", "step", 4)
    after = {name: says(page, name) for name in names}
    assert [name for name in names if before[name] != after[name]] == ["second", "second-walk"]
    assert page.locator("#nph-walk .nph-toggle input").first.is_checked()  # two groups of radio buttons


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["bare", "light", "dark"])
def test_readable_in_light_and_dark(show, scheme, place):
    """In a page without a theme, as on Colab, the system decides; in the book, the page."""
    figures = [make() for make in FIGURES.values()]
    theme = {} if place == "bare" else {"head": THEME, "mode": f' data-theme="{place}"'}
    page = show(*figures, color_scheme=scheme, **theme)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 180
    for text, opacity, contrast in found:
        assert contrast >= (4.5 if opacity == 1 else 1.9), (text, opacity, contrast)
    back = page.evaluate("getComputedStyle(document.querySelector('.nph')).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if (scheme if place == "bare" else place) == "light" else "rgb(20, 24, 29)")
    blue = page.evaluate("getComputedStyle(document.querySelector('.nph-marked')).fill")
    assert (blue == "rgb(31, 106, 165)") == (back == "rgb(255, 255, 255)")


def paper_and_ink(target, edge):
    """The commonest colour of what is seen of an element without its edge, [3], and how far from it any other is."""
    seen = Image.open(io.BytesIO(target.screenshot())).convert("RGB")
    seen = seen.crop((edge, edge, seen.width - edge, seen.height - edge))
    counts = sorted(seen.getcolors(seen.width * seen.height))
    paper = torch.tensor(counts[-1][1])
    return paper, max((torch.tensor(colour) - paper).abs().sum() for _, colour in counts)


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name, choices", [("walk", ".nph-picks button"), ("walk", ".nph-toggle label"), ("sudoku", ".nph-toggle label")])
def test_what_is_chosen_stands_out_in_colours_that_the_reader_chose(show, scheme, name, choices):
    """Forced colours take away shadows and backgrounds."""
    page = show(FIGURES[name](), forced_colors="active", color_scheme=scheme)
    page.add_style_tag(content="* { transition: none !important }")
    papers, inks = zip(*(paper_and_ink(choice, 6) for choice in page.locator(choices).all()))
    assert min(inks) > 300  # digit or writing can be read
    assert all((paper - papers[0]).abs().sum() > 100 for paper in papers[1:])


@in_browser
@pytest.mark.parametrize("name, writing", [("sudoku", ".nph-given"), ("sudoku", ".nph-open"), ("walk", ".nph-small")])
def test_writing_is_read_in_colours_that_the_reader_chose(show, name, writing):
    """White on black, though the book's own switch says light."""
    page = show(FIGURES[name](), head=THEME, mode=' data-theme="light"', forced_colors="active", color_scheme="dark")
    assert paper_and_ink(page.locator(writing).first, 1)[1] > 350


@in_browser
@each_figure
def test_a_phone_holds_a_figure_and_its_words_can_be_read(show, name):
    page = show(FIGURES[name](), viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    size = "e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a"
    sizes = page.evaluate(f"[...document.querySelectorAll('.nph-svg text')].map({size})")
    assert min(sizes) >= 11


@in_browser
@each_figure
def test_in_a_sandboxed_frame_as_on_colab(show, name):
    inner = PAGE.format(head="", mode="", body=FIGURES[name]().data).replace("&", "&amp;").replace('"', "&quot;")
    page = show(body=f'<iframe sandbox="allow-scripts" width="700" height="800" srcdoc="{inner}"></iframe>')
    figure = page.frame_locator("iframe").locator(".nph[data-live]")
    before = figure.locator(".nph-says").inner_text()
    slider = figure.locator(f"[data-key='{SLIDERS[name]}']")
    slider.press("ArrowLeft" if name == "sudoku" else "ArrowRight")
    assert figure.locator(".nph-says").inner_text() != before


@in_browser
def test_a_notebook_puts_it_in_and_runs_its_cell_again(show):
    """Notebooks set the text of an output and then run its scripts, so that no script knows where it stands."""
    put = """text => { const cell = document.querySelector("#cell"); cell.innerHTML = text;
      cell.querySelectorAll("script").forEach(old => { const script = document.createElement("script");
        for (const a of old.attributes) script.setAttribute(a.name, a.value);
        script.textContent = old.textContent; old.replaceWith(script); }); }"""
    page = show(body='<div id="cell"></div>')
    for t in (3, 7):
        page.evaluate(put, schedule_explorer(t=t).data)
        assert says(page, "schedule").startswith(f"At t = {t} of 10:")
        move(page, "schedule", "t", 9)
        assert says(page, "schedule").startswith("At t = 9 of 10:")


@in_browser
def test_the_same_figure_twice_is_two_figures(show):
    """Whoever runs one call in two cells gets one name twice: each is started once, and steps one step."""
    page = show(body="".join(f"<section>{walk(DIGITS).data}</section>" for _ in range(2)))
    first, second = page.locator(".nph-says").all()
    page.locator("[data-do='step-on']").first.click()
    assert first.inner_text().startswith("Layer 9 says") and second.inner_text().startswith("Layer 10 says")
