"""The site as one archive to ship: ``python tests/archive.py SITE ARCHIVE`` packs it, opens it again and checks it.

Every page of the table of contents is in it, every link between its pages leads to a file, and every number in prose that names
a record stands on its page as the record has it. One line and exit code 1 for the first thing that is wrong.
"""

import re
import sys
import tempfile
import zipfile
from html import unescape
from pathlib import Path
from urllib.parse import unquote

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
    return wrong + broken_links(site)


def broken_links(site: Path) -> list[str]:
    wrong = []
    for page in sorted(site.rglob("*.html")):
        for address in re.findall(r'\b(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if page.name != "404.html" and not re.match(r"[a-z]+:|//", address):
                target = (page.parent / unquote(unescape(address))).resolve()
                if not target.exists():
                    wrong.append(f"{page.relative_to(site)} leads to {address}, which is not there")
    return wrong


def main(site: str, archive: str) -> None:
    pack(Path(site), Path(archive))
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        wrong = wrong_with(Path(folder).resolve())
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{archive}: {Path(archive).stat().st_size / 1e6:.1f} MB, its pages, links and numbers are whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
