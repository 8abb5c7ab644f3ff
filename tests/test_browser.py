"""The built book in a browser: every page, opened from disk and from a local server, with no other host to be reached."""

import contextlib
import functools
import http.server
import importlib.resources
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from conftest import CHROMIUM, EVERYTHING, pages_of

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
# By day: the pages of single modules are all alike. Of the lab's, one short and one long stand for the others.
EXAMPLES = ("book/api/lab/claims", "book/api/lab/conformance_formulas")
LOOKED_AT = [page for page in pages_of(TOC) if EVERYTHING or not page.startswith("book/api/lab/") or page in EXAMPLES]
PAGES = [*LOOKED_AT, "genindex", "search"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.built,
]
each_source = pytest.mark.parametrize("source", ["disk", "server"])
each_page = pytest.mark.parametrize("name", PAGES)
# Pages of every kind, which by day are looked at in every way.
KINDS = [
    "book/index", "book/04-inference", "book/11-the-papers-tables", "book/train-it-here", "book/records-ledger", "book/api/noprop",
    "search",
]  # fmt: skip
VISITS = [*(("disk", name) for name in PAGES), *(("server", name) for name in (PAGES if EVERYTHING else KINDS))]
each_visit = pytest.mark.parametrize("source, name", VISITS)

# axe-core looks at every element, and at the same question thousands of times over in code, mathematics and, by day, tables and
# lists: of those that are built and look alike, and so pass or fail alike, the first stay. The page is of no other use then.
# Contrast takes it longest. It is a matter of an element's writing and of all that lies behind it: by day the first that have
# both alike are asked for it.
AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
SERIOUS = """async () => {
  const seen = new Set(), again = [];
  for (const e of document.querySelectorAll("pre span, mjx-container")) {
    const { color, fontWeight, width, height } = getComputedStyle(e);
    const look = [e.tagName, e.className, color, fontWeight, e.closest(".cell_output, .cell_input, .output_area")?.className].join();
    if (seen.has(look)) again.push([e, { display: "inline-block", width, height }]);
    seen.add(look);
  }
  for (const [e, room] of again) {
    if (e.matches("pre *")) e.replaceWith(...e.childNodes);
    else {
      const empty = document.createElement("span");
      Object.assign(empty.style, room);
      e.replaceWith(empty);
    }
  }
  document.querySelectorAll("pre").forEach(e => e.normalize());
  const attribute = ({ name, value }) => `${name}=${/^(class|style|role)$/.test(name) ? value : value.trim() !== ""}`;
  const one = e => [e.tagName, e.textContent.trim() !== "", ...[...e.attributes].map(attribute)];
  const built = e => [e, ...e.querySelectorAll("*")].map(one).join(";");
  for (const box of document.querySelectorAll("tbody, ul, dl.py")) {
    const met = {};
    for (const e of [...box.children]) {
      const like = built(e);
      met[like] = (met[like] ?? 0) + 1;
      if (met[like] > ALIKE) e.remove();
    }
  }
  const writes = e => e.matches("input, select, textarea") || [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const ground = e => [e, ...(e.parentElement ? ground(e.parentElement) : [])];
  const painted = e => (s => [s.backgroundColor, s.backgroundImage, s.opacity, s.filter].join())(getComputedStyle(e));
  const writing = [], read = {};
  for (const e of [...document.body.querySelectorAll("*")].filter(writes)) {
    const { color, fontSize, fontWeight, textShadow } = getComputedStyle(e);
    const look = [e.tagName, color, fontSize, fontWeight, textShadow, ...ground(e).map(painted)].join(";");
    read[look] = (read[look] ?? 0) + 1;
    if (read[look] <= ALIKE) writing.push(e);
  }
  const how = { resultTypes: ["violations"], preload: false };
  const rules = { "label-content-name-mismatch": { enabled: true }, "color-contrast": { enabled: false } };
  const found = [await axe.run(document, { ...how, rules }), await axe.run({ include: writing }, { ...how, runOnly: ["color-contrast"] })];
  return found.flatMap(f => f.violations).filter(v => ["serious", "critical"].includes(v.impact))
    .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 120)} ${n.failureSummary.split("\\n").slice(-1)}`));
}""".replace("ALIKE", "Infinity" if EVERYTHING else "2")

LOOKS = [("light", 1400), ("light", 390), ("dark", 390), ("dark", 1400)]
each_look = pytest.mark.parametrize("mode, width", LOOKS)


def looks(name):
    """By day both colours and both widths on every page; pages of single modules, which are made alike, in one look each."""
    return LOOKS if EVERYTHING or name in KINDS else LOOKS[2:3] if "/api/" in name else LOOKS[::2]


# What is folded away is part of a page, too.
UNFOLD = "document.querySelectorAll('details:not([open])').forEach(fold => { fold.open = true; fold.dataset.unfolded = ''; })"

# Equations and tables that a reader cannot see whole: neither fitting nor scrolling in a box that takes the focus.
CUT = """() => {
  const found = [], scrolling = [];
  const inside = (e, box) => e.getBoundingClientRect().left >= box.getBoundingClientRect().left - 1;
  for (const box of document.querySelectorAll("main div.math, main .pst-scrollable-table-container")) {
    if (!box.checkVisibility()) continue;
    const number = box.parentElement.querySelector(":scope > .equation-number");
    const kind = box.matches(".math") ? "equation" : "table";
    const name = `${kind} ${number?.textContent || box.textContent.trim().slice(0, 40)}`;
    for (const inner of box.querySelectorAll("mjx-container"))
      if (getComputedStyle(inner).overflowX !== "visible") found.push(`${name} scrolls in a box that takes no focus`);
    box.scrollLeft = 0;
    if (![...box.querySelectorAll("mjx-math, table")].every(e => inside(e, box))) found.push(`${name} begins left of its box`);
    const end = number?.getBoundingClientRect().right;
    if (end > document.querySelector("article").getBoundingClientRect().right + 1) found.push(`${name} stands outside the page`);
    if (box.scrollWidth <= box.clientWidth + 1) continue;
    scrolling.push(`${name} by ${box.scrollWidth - box.clientWidth} px`);
    if (getComputedStyle(box).overflowX !== "auto") found.push(`${name} is cut off`);
    const named = box.getAttribute("role") === "region" && box.ariaLabel;
    if (box.tabIndex !== 0 || !named) found.push(`${name} takes no focus`);
  }
  for (const e of document.querySelectorAll("main mjx-container"))
    if (e.tabIndex >= 0) found.push(`a formula is in the tab order: ${e.textContent.slice(0, 40)}`);
  return { found, scrolling };
}"""

FACTS = """() => {
  const article = document.querySelector("main").cloneNode(true);
  article.querySelectorAll("pre, code, script, mjx-container").forEach(e => e.remove());
  const all = selector => [...document.querySelectorAll(selector)];
  return {
    text: article.textContent,
    formulas: all(".math").length,
    unset: all(".math").filter(e => !e.querySelector("mjx-container")).map(e => e.textContent),
    // An unknown command is no error to MathJax: it shows its name in red.
    errors: all('mjx-merror, mjx-mtext[style*="red"]').map(e => e.getAttribute("data-mjx-error") || e.textContent),
    images: all("img").map(e => ({ src: e.getAttribute("src"), width: e.naturalWidth, alt: e.alt })),
    links: all("a[href]").map(e => e.href),
    icon: document.querySelector("link[rel~=icon]")?.href,
    searches: all("input[type=search], .search-button, .search-button-field").filter(e => e.checkVisibility()).length,
  };
}"""


# How many screens down the first picture or interactive figure begins, with folds as a reader finds them; no picture is far.
FIRST_PICTURE = """() => {
  const folds = [...document.querySelectorAll("[data-unfolded]")];
  folds.forEach(fold => { fold.open = false; });
  const shown = e => e.checkVisibility() && e.getBoundingClientRect().width > 100;
  const first = [...document.querySelectorAll("main :is(img, .nph)")].find(shown);
  const screens = first ? (first.getBoundingClientRect().top + scrollY) / innerHeight : 1000;
  folds.forEach(fold => { fold.open = true; });
  return screens;
}"""

# Focus on every control in turn; those on which it does not show.
UNMARKED = """() => [...document.querySelectorAll("a, button, summary, input, [tabindex='0']")]
  .filter(e => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !e.disabled)
  .filter(e => {
    e.focus({ focusVisible: true });
    const style = getComputedStyle(e);
    return document.activeElement === e && (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2);
  }).map(e => e.outerHTML.slice(0, 120))"""

# Signs of the icon font that would show as empty boxes.
MISSING_SIGNS = """async () => {
  const signs = [...document.querySelectorAll("i[class*=fa-], span[class*=fa-]")].filter(e => e.checkVisibility());
  const missing = [];
  for (const e of signs) {
    const { content, fontFamily, fontWeight } = getComputedStyle(e, "::before");
    const fonts = await document.fonts.load(`${fontWeight} 16px ${fontFamily}`, content);
    if (!/^"[^"]+"$/.test(content) || !fonts.length) missing.push(e.className);
  }
  return { shown: signs.length, missing };
}"""

PAPER = """() => {
  const style = selector => getComputedStyle(document.querySelector(selector));
  return {
    titles: [...document.querySelectorAll("h1")].filter(e => e.checkVisibility()).length,
    colours: [style("body").backgroundColor, style(".bd-article p").color],
    shown: [...document.querySelectorAll(`.bd-sidebar, .bd-header-article, .prev-next-footer, button, input, select,
        details:not([open])`)]
      .filter(e => e.checkVisibility()).map(e => e.id || e.className || e.outerHTML.slice(0, 60)),
    filters: [...document.querySelectorAll("main img")].map(e => getComputedStyle(e).filter).filter(f => f !== "none"),
    clipped: [...document.querySelectorAll("main pre, main table, main div.math")]
      .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 60)),
  };
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):  # a page that is closed does not wait for all of its pictures
            super().copyfile(source, outputfile)


class Published(Quiet):
    """As the published site answers: within its folder, and with 404.html for whatever is not there."""

    folder = urlsplit(CONFIG["html"]["baseurl"]).path

    def translate_path(self, path):
        path = super().translate_path("/" + path.removeprefix(self.folder))
        return path if Path(path).is_file() else str(HTML / "404.html")


@pytest.fixture(scope="module")
def bases():
    """Where the book starts: as a folder on disk, behind a server on this machine, and in its folder of a published site."""
    answers = {"server": Quiet, "published": Published}
    servers = {
        name: http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=HTML))
        for name, handler in answers.items()
    }
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = {name: f"http://127.0.0.1:{server.server_port}" for name, server in servers.items()}
    addresses["published"] += Published.folder.rstrip("/")
    yield addresses | {"disk": HTML.as_uri()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def visit(browser, bases):
    """visit(source, name) opens a page once and returns what it saw: from disk wide and narrow, light and dark, unfolded."""
    seen = {}

    def turn(page, mode, width):
        page.emulate_media(color_scheme=mode)
        page.wait_for_selector(f"html[data-theme={mode}]")
        if page.viewport_size["width"] != width:
            page.set_viewport_size({"width": width, "height": 900 if width == 1400 else 844})
            page.wait_for_timeout(900)  # page.js marks what scrolls

    def look_closely(page, page_name):
        page.add_style_tag(content="* { transition: none !important }")  # the theme fades from colour to colour
        page.evaluate(UNFOLD)
        page.wait_for_timeout(600)
        facts = {"signs": page.evaluate(MISSING_SIGNS), "first picture": {1400: page.evaluate(FIRST_PICTURE)}}
        facts["wide"] = page.evaluate(CUT)
        turn(page, "dark", 390)
        facts["dark background"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        facts["phone width"] = page.evaluate("document.documentElement.scrollWidth")
        facts["first picture"][390] = page.evaluate(FIRST_PICTURE)
        facts["narrow"] = page.evaluate(CUT)
        page.evaluate(AXE)
        for look in sorted(looks(page_name), key=lambda look: (look[1], look[0])):  # as it is, first
            turn(page, *look)
            facts[f"axe {look}"] = page.evaluate(SERIOUS)
        return facts

    def open_page(source, name):
        base = bases[source]
        context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page = context.new_page()
        complaints, foreign, loaded = [], [], set()
        page.on("console", lambda m: m.type == "error" and complaints.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: complaints.append(f"script: {e}"))
        page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
        page.on("response", lambda r: r.status >= 400 and complaints.append(f"{r.status}: {r.url}"))
        page.on("request", lambda r: r.url.startswith((base, "data:", "blob:")) or foreign.append(r.url))
        page.on("request", lambda r: loaded.add(urlsplit(r.url).path.removeprefix(urlsplit(base).path)))
        page.goto(f"{base}/{name}.html", wait_until="load")
        page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
        facts = page.evaluate(FACTS) | {"url": page.url, "complaints": complaints, "foreign": foreign, "loaded": loaded}
        if source == "disk":
            facts |= look_closely(page, name)
        context.close()
        return facts

    def visit(source, name):
        if (source, name) not in seen:
            seen[source, name] = open_page(source, name)
        return seen[source, name]

    return visit


@each_visit
def test_page_loads_without_complaint_and_without_other_hosts(visit, source, name):
    facts = visit(source, name)
    assert facts["complaints"] == []
    assert facts["foreign"] == []


@each_visit
def test_mathematics_is_typeset(visit, source, name):
    facts = visit(source, name)
    assert facts["errors"] == []
    assert facts["unset"] == []
    assert not re.search(r"\$[^$\n]+\$|\$\$|\\\(|\\\[|\\begin\{", facts["text"])


@each_page
def test_no_page_is_heavier_than_it_should_be(visit, name):
    """What a page loads before its pictures: half of the 3.8 MB that it was with a theme's and MathJax's every part."""
    files = [HTML / unquote(path).lstrip("/") for path in visit("disk", name)["loaded"] if path]
    kinds = {".html", ".js", ".css", ".woff", ".woff2", ".ttf"}
    weights = {file.name: file.stat().st_size for file in files if file.suffix in kinds}
    assert len(weights) > 10
    assert sum(weights.values()) < 1_900_000, weights


@each_page
def test_every_sign_of_the_icon_font_is_there(visit, name):
    assert visit("disk", name)["signs"]["shown"] > 3
    assert visit("disk", name)["signs"]["missing"] == []


def test_no_page_names_the_folder_it_was_built_in():
    pages = list(HTML.rglob("*.html"))
    assert pages and [page.name for page in pages if str(ROOT) in page.read_text()] == []


@pytest.mark.parametrize("name", [name for name in PAGES if re.match(r"book/\d", name)])
def test_chapters_have_mathematics(visit, name):
    assert visit("disk", name)["formulas"]


@each_visit
def test_images_are_there_and_described(visit, source, name):
    for image in visit(source, name)["images"]:
        assert image["width"] > 0, image
        assert image["alt"].strip() and not re.search(r"\.(png|svg|jpe?g|gif)$", image["alt"]), image


@functools.cache
def places(page):
    """The ids of a page's file."""
    return set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


@each_page
def test_links_lead_to_pages_and_places_in_the_book(visit, bases, name):
    facts = visit("disk", name)
    assert Path(unquote(urlsplit(facts["icon"]).path)).exists()
    for link in facts["links"]:
        if not link.startswith(bases["disk"]):
            assert link.startswith("https://"), link
            continue
        url, place = urldefrag(link)
        target = Path(unquote(urlsplit(url).path))
        assert target.is_file(), link
        page = target.relative_to(HTML).with_suffix("").as_posix()
        if place and page in PAGES:
            assert unquote(place) in places(target), link  # from the file: another process has visited the page


@pytest.mark.parametrize("name", [name for name in PAGES if (ROOT / f"{name}.ipynb").exists()])
def test_chapter_has_its_colab_button(visit, name):
    path = f"{urlsplit(CONFIG['repository']['url']).path}/blob/colab/{name}.ipynb"  # see book/_ext/one_commit.py
    assert f"https://colab.research.google.com/github{path}" in visit("disk", name)["links"]


@each_page
def test_one_search_box(visit, name):
    # The search page has its own beside the one of every page.
    assert visit("disk", name)["searches"] == (2 if name == "search" else 1)


@each_page
def test_nothing_overflows_a_phone(visit, name):
    assert visit("disk", name)["phone width"] <= 390


@pytest.mark.parametrize("name", [name for name in PAGES if re.match(r"book/\d", name)])
def test_a_chapter_shows_something_within_two_screens(visit, name):
    """The first picture or interactive figure begins there: how many screens down, on a laptop and on a phone."""
    assert {width: screens < 2 for width, screens in visit("disk", name)["first picture"].items()} == {1400: True, 390: True}


@each_page
def test_dark_mode_is_dark(visit, name):
    assert max(map(int, re.findall(r"\d+", visit("disk", name)["dark background"])[:3])) < 64


FITTING = ["book/notation", "book/records-ledger"]  # pages of tables to look things up in


@each_page
def test_equations_fit_a_laptop_and_tables_too_or_scroll(visit, name):
    wide = visit("disk", name)["wide"]
    assert wide["found"] == []
    assert [line for line in wide["scrolling"] if line.startswith("equation") or name in FITTING] == []


@each_page
def test_equations_and_tables_fit_a_phone_or_scroll_within_reach_of_the_keyboard(visit, name):
    assert visit("disk", name)["narrow"]["found"] == []


@pytest.mark.parametrize("mode, width, name", [(*look, name) for name in PAGES for look in looks(name)])
def test_axe_core_finds_nothing_serious(visit, mode, width, name):
    assert visit("disk", name)[f"axe {mode, width}"] == []


# Adds five rows like the first that has a link, and returns the last.
SIXTH = """() => {
  const row = document.querySelector("tbody tr:has(a)");
  return Array.from({ length: 5 }, () => row.parentElement.appendChild(row.cloneNode(true))).at(-1);
}"""


@pytest.mark.parametrize(
    "harm, rule",
    [
        ("row => { row.children[0].style.color = '#eee'; }", "color-contrast"),
        ("row => { row.style.background = '#555'; }", "color-contrast"),
        ("row => { row.children[1].style.opacity = 0.3; }", "color-contrast"),
        ("row => { row.querySelector('a').textContent = ''; }", "link-name"),
        ("row => { row.setAttribute('role', 'nonsense'); }", "aria-roles"),
    ],
)
def test_of_many_rows_the_one_that_is_wrong_is_found(browser, bases, harm, rule):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{bases['disk']}/book/notation.html")
    page.evaluate_handle(SIXTH).evaluate(harm)
    page.evaluate(AXE)
    assert rule in {line.split(":")[0] for line in page.evaluate(SERIOUS)}
    page.close()


@each_look
def test_the_page_for_lost_readers_is_for_every_reader(browser, bases, mode, width):
    page = browser.new_page(color_scheme=mode, viewport={"width": width, "height": 844})
    page.goto(f"{bases['disk']}/404.html")
    page.evaluate(AXE)
    assert page.evaluate(SERIOUS) == [] and page.evaluate(UNMARKED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@each_source
def test_front_door_leads_to_the_landing_page(browser, bases, source):
    page = browser.new_page()
    page.goto(f"{bases[source]}/index.html")
    page.wait_for_url(f"**/{TOC['root']}.html")
    assert page.title().strip()
    page.close()


# Of each drawing that is seen: its file, what it is in words, and how wide it is.
DRAWINGS = """() => {
  const seen = [...document.querySelectorAll("main img[src$='.svg']")].filter(e => e.checkVisibility());
  return seen.map(e => [e.getAttribute("src"), e.alt, e.getBoundingClientRect().width]);
}"""


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 576, 575, 390])
def test_the_landing_page_draws_once_and_large_enough_to_read(browser, bases, mode, width):
    page = browser.new_page(color_scheme=mode, viewport={"width": width, "height": 844})
    page.goto(f"{bases['disk']}/{TOC['root']}.html", wait_until="load")
    page.wait_for_selector(f"html[data-theme={mode}]")
    drawings = page.evaluate(DRAWINGS)
    assert len(drawings) == 2 and len({alt for _, alt, _ in drawings}) == 2
    for src, _, shown in drawings:
        assert ("-dark" in src) == (mode == "dark")
        svg = (HTML / "book" / src).resolve().read_text(encoding="utf-8")
        drawn = float(re.search(r'viewBox="0 0 (\d+) ', svg)[1])
        smallest = min(map(float, re.findall(r'font-size="([\d.]+)"', svg)))
        assert smallest * shown / drawn >= 11, src
    page.close()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_without_scripts_drawings_and_figures_are_those_of_a_light_page(browser, bases, mode):
    context = browser.new_context(java_script_enabled=False, color_scheme=mode)
    page = context.new_page()
    page.goto(f"{bases['disk']}/{TOC['root']}.html")
    assert len(page.evaluate(DRAWINGS)) == 2 and not any("-dark" in src for src, _, _ in page.evaluate(DRAWINGS))
    page.goto(f"{bases['disk']}/book/04-inference.html")
    backs = "[document.body, document.querySelector('.nph')].map(e => getComputedStyle(e).backgroundColor)"
    assert page.evaluate(backs) == ["rgb(255, 255, 255)"] * 2
    context.close()


@each_source
def test_search_finds_the_chapters(browser, bases, source):
    page = browser.new_page()
    page.goto(f"{bases[source]}/search.html?q=noise")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a[href*='book/']").count() > 0
    page.close()


@pytest.mark.parametrize("name", ["book/index", "book/01-schedule-math", "search"])
@each_look
def test_focus_shows_on_every_control(browser, bases, name, mode, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=mode)
    page.goto(f"{bases['disk']}/{name}.html", wait_until="load")
    page.wait_for_selector(f"html[data-theme={mode}]")
    page.evaluate(UNFOLD)
    page.add_style_tag(content="* { transition: none !important }")
    assert page.evaluate(UNMARKED) == []
    page.close()


@pytest.mark.parametrize("name", ["book/index", "book/notation", "book/07-what-the-layers-are-for", "book/train-it-here"])
def test_a_dark_page_prints_dark_on_white_and_nothing_but_the_text(browser, bases, name):
    page = browser.new_page(color_scheme="dark", viewport={"width": 700, "height": 1000})
    page.goto(f"{bases['disk']}/{name}.html", wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise?.then(() => null)")
    page.wait_for_selector("html[data-theme=dark]")
    page.add_style_tag(content="* { transition: none !important }")
    page.emulate_media(media="print")
    page.wait_for_selector("html[data-theme=light]")
    paper = page.evaluate(PAPER)
    assert paper["titles"] == 1
    assert paper["colours"][0] in {"rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}
    assert max(map(int, re.findall(r"\d+", paper["colours"][1]))) < 64
    assert paper["shown"] == paper["filters"] == paper["clipped"] == []
    page.emulate_media(media="screen")
    page.wait_for_selector("html[data-theme=dark]")
    page.close()


@pytest.mark.parametrize("address", ["published/lost.html", "published/at/any/depth/lost", "disk/404.html", "server/404.html"])
def test_a_lost_reader_finds_the_way_back(browser, bases, address):
    source, _, path = address.partition("/")
    page = browser.new_page()
    page.goto(f"{bases[source]}/{path}")
    assert page.title() == "Page not found - The NoProp Book"
    page.get_by_role("main").get_by_role("link").click()
    page.wait_for_url(f"{bases[source]}/{TOC['root']}.html")
    page.go_back()
    page.get_by_role("searchbox").fill("noise")
    page.get_by_role("button").click()
    page.wait_for_selector("#search-results li a")
    page.close()
