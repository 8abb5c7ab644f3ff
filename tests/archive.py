"""The site as one archive to ship: ``python tests/archive.py SITE ARCHIVE OPENED`` packs it, opens it in a new folder, and checks
that folder, which is what is published.

Every page of the table of contents is in it, every link between its pages leads to a file and to a place on it, pictures can be
shown, the search has words of every page, and every number in prose that names a record stands on its page as the record has it.
A line for each thing that is wrong, and exit code 1.
"""

import functools
import json
import re
import sys
import zipfile
from html import unescape
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from PIL import Image
from test_claims import NUMBER, prose, wrong_claims

ROOT = Path(__file__).resolve().parent.parent


def pack(site: Path, archive: Path) -> None:
    """Files in the order of their names, with one date: the same site makes the same archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in site.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(site).as_posix(), date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, path.read_bytes())


def sources() -> list[Path]:
    return sorted([*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")])


def claimed(source: Path) -> list[str]:
    """Numbers of a page that name a record, as they are written: "78.1 %"."""
    return [f"{number} {unit}".strip() for number, unit, kind, _ in NUMBER.findall(prose(source)) if kind == "record"]


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))))


def wrong_with(site: Path) -> list[str]:
    """What is wrong with an opened archive; [] if it may be shipped."""
    wrong = []
    for source in sources():
        page = site / "book" / f"{source.stem}.html"
        if not page.is_file():
            wrong.append(f"{page.relative_to(site)} is missing")
            continue
        text = text_of(page)
        wrong += [f"{page.relative_to(site)}: {said} does not stand there" for said in claimed(source) if said not in text]
        wrong += wrong_claims(prose(source))
    return wrong + broken_links(site) + broken_pictures(site) + wrong_index(site)


def broken_links(site: Path) -> list[str]:
    wrong, places = [], functools.cache(lambda page: set(re.findall(r'(?<![\w-])id="([^"]+)"', page.read_text(encoding="utf-8"))))
    for page in sorted(site.rglob("*.html")):
        for address, place in re.findall(r'\b(?:href|src)="([^"#?]*)[^"#]*(?:#([^"]*))?"', page.read_text(encoding="utf-8")):
            if page.name == "404.html" or re.match(r"[a-z]+:|//", address):
                continue
            target = (page.parent / unquote(unescape(address))).resolve() if address else page
            if not target.exists():
                wrong.append(f"{page.relative_to(site)} leads to {address}, which is not there")
            elif place and target.suffix == ".html" and unquote(place) not in places(target):
                wrong.append(f"{page.relative_to(site)} leads to {address}#{place}, and there is no such place")
    return wrong


def broken_pictures(site: Path) -> list[str]:
    wrong = []
    for path in sorted(site.rglob("*")):
        try:
            if path.suffix == ".svg":
                ElementTree.parse(path)
            elif path.suffix in {".png", ".webp", ".gif", ".jpg"}:
                with Image.open(path) as image:
                    image.load()
        except (OSError, SyntaxError, ValueError) as error:  # what is no picture, or only a part of one
            wrong.append(f"{path.relative_to(site)} cannot be shown: {error}")
    return wrong


def wrong_index(site: Path) -> list[str]:
    """The search's index: a script with one call, whose argument is JSON."""
    try:
        index = json.loads((site / "searchindex.js").read_text(encoding="utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
        found = {page for pages in index["terms"].values() for page in (pages if isinstance(pages, list) else [pages])}
        known = {name for number, name in enumerate(index["docnames"]) if number in found}
    except (OSError, ValueError, KeyError) as error:
        return [f"searchindex.js is no index: {error!r}"]
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in (site / "book").rglob("*.html")}
    return [f"searchindex.js has no word of {page}" for page in sorted(pages - known)]


def main(site: str, archive: str, opened: str) -> None:
    pack(Path(site), Path(archive))
    Path(opened).mkdir()  # nothing else may lie there
    with zipfile.ZipFile(archive) as file:
        file.extractall(opened)
    if wrong := wrong_with(Path(opened).resolve()):
        sys.exit("\n".join(wrong))
    print(f"{archive}: {Path(archive).stat().st_size / 1e6:.1f} MB, its pages, links, pictures and numbers are whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
