"""What a reader looks for is found: in the index of the search page, and in the general index."""

import json
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.search.en import SearchEnglish

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
PHRASES = ("own images", "install", "posterior", "SNR", "learning rate", "Colab")

pytestmark = pytest.mark.built


@pytest.fixture(scope="module")
def index():
    return json.loads((HTML / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))


def found(index, phrase):
    """Pages that hold all words of a phrase, in text or title, as the search page finds them."""
    language = SearchEnglish({})
    pages = set(index["docnames"])
    for word in language.split(phrase.lower()):
        stem = language.stem(word)
        numbers = [part.get(stem, []) for part in (index["terms"], index["titleterms"])]
        pages &= {index["docnames"][n] for part in numbers for n in (part if isinstance(part, list) else [part])}
    return pages


@pytest.mark.parametrize("phrase", PHRASES)
def test_search_finds_a_page(index, phrase):
    assert [page for page in found(index, phrase) if not page.startswith("book/api")], phrase


@pytest.mark.parametrize("phrase", PHRASES)
def test_the_general_index_has_it(index, phrase):
    assert phrase.lower() in {entry.lower() for entry in index["indexentries"]}
    entries = BeautifulSoup((HTML / "genindex.html").read_text(), "html.parser").select(".indextable a")
    assert phrase in {entry.get_text() for entry in entries}


def test_a_word_that_is_nowhere_is_not_found(index):
    assert found(index, "xylophone") == set() and found(index, "xylophone noise") == set()
