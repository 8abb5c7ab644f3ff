"""A reader who changes a number in a chapter sees what happens then; no cell raises.

Each chapter is run once for each of its changes, all of them in one kernel that forgets in between. Where a training takes long
it is cut short the way a reader would, by fewer steps; figures are drawn up, and not looked at.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
LAYERS = r"^(T(?:, \w+)* = )10\b"
SCHEDULE = r"^alpha_bar = cosine_alpha_bar\(T\)"
# The public notebook's: its first step adds no noise. Written out, since not every chapter imports it.
LINE = "torch.cat([torch.ones(1), torch.linspace(1.0, 0.1, T).cumprod(0)]).double()"
STEEP = "torch.linspace(1, 0, T + 1)"
SOFT = "torch.linspace(0.98, 0.02, T + 1)"


def layers(number):
    return {LAYERS: rf"\g<1>{number}"}


# chapter -> how its trainings are cut: what stands there -> what stands instead
CUT = {
    "00-noprop-on-one-page": {r"\b800\b": "50"},
    "03-per-layer-training": {r"epochs=40": "epochs=1", r"epochs, learning_rate = 20, 3e-3": "epochs, learning_rate = 1, 3e-3"},
    "04-inference": {r"epochs=30, learning_rate=3e-3": "epochs=1, learning_rate=3e-3", "num_walks=20": "num_walks=3"},
    "05-the-published-notebook": {r'"epochs": "30"': '"epochs": "2"', r"Settings\(epochs=30\)": "Settings(epochs=1)"},
    "07-what-the-layers-are-for": {r"Training\(steps=300\)": "Training(steps=2)", r"steps=1\d00": "steps=2"},
    "08-label-embeddings": {r"passes, learning_rate = 35, 0\.01": "passes, learning_rate = 1, 0.01"},
    "09-continuous-time": {
        r"epochs, learning_rate, profiles = 60, 3e-3": "epochs, learning_rate, profiles = 2, 3e-3",
        r"^marks = .*": "marks = (1, 2, 3, 4, 5, 6, 7)", r"\((?:300|500),\)": "(2,)",
        r"20, 50, 200\)\}": "20, 50)}", r"^steps = \(8, 16, 32, 64, 128, 256, 512\)": "steps = (8, 16, 32)",
    },
    "10-flow-matching": {
        r"epochs, learning_rate = 16, 6e-3": "epochs, learning_rate = 1, 6e-3", r"epochs=40": "epochs=1",
        "NUM_WALKS, STEPS = 7, 50": "NUM_WALKS, STEPS = 3, 10", r"range\(40\)": "range(1)",
    },
    "11-the-papers-tables": {r"range\(300\)": "range(2)"},
    "12-gpu-benchmarking": {r"repeats=\d": "repeats=1", r"^batch_sizes = \(8, 32, 128\)": "batch_sizes = (8, 32)"},
    "13-layers-in-parallel": {r'"epochs": "20"': '"epochs": "1"'},
    "14-no-gradient-anywhere": {r"^epochs = 60": "epochs = 1"},
    "15-a-referees-questions": {r"Training\(steps=300\)": "Training(steps=2)"},
}  # fmt: skip
# chapter -> what its readers change; a change of what is cut takes the cut's place
CHANGES = {
    "00-noprop-on-one-page": [
        {**layers(1), r"\b800\b": "5"},
        {**layers(20), r"^left = .*": f"left = {STEEP}", r"\b800\b": "5"},
        {r"lr=0\.003": "lr=0.3"},
    ],
    "01-schedule-math": [
        layers(1),
        layers(20),
        {r"start=1\.0": "start=0.99", r"end=0\.1\)": "end=0.5)"},
        {r"\bcosine_alpha_bar\(T\)": f"{SOFT}.double()"},
        {**layers(3), r"\bcosine_alpha_bar\(T\)": LINE},
        {r"\bcosine_alpha_bar\(T\)": "cosine_alpha_bar(T, clean_end=1.0, noise_end=0.3)"},
    ],
    "02-forward-diffusion": [
        layers(1),
        layers(3),
        {SCHEDULE: f"alpha_bar = {LINE}"},
        {**layers(20), SCHEDULE: f"alpha_bar = {STEEP}"},
    ],
    "03-per-layer-training": [
        layers(1),
        layers(2),
        {**layers(20), r"\bcosine_alpha_bar\(T\)": LINE},
        {r"epochs, learning_rate = 20, 3e-3": "epochs, learning_rate = 2, 0.3"},
    ],
    "04-inference": [
        layers(1),
        {**layers(4), SCHEDULE: f"alpha_bar = {LINE}"},
        {SCHEDULE: f"alpha_bar = {SOFT}"},
        {**layers(20), r"epochs=30, learning_rate=3e-3": "epochs=2, learning_rate=0.3"},
    ],
    "05-the-published-notebook": [
        {r"linear_alphas\(10\)": "linear_alphas(3)"},
        {r"linear_alphas\(10\)": "linear_alphas(20, 0.99, 0.5)", r'"epochs": "30"': '"epochs": "1", "learning_rate": "0.3"'},
    ],
    "06-what-the-layers-add": [layers(1)],
    "07-what-the-layers-are-for": [
        {**layers(1), SCHEDULE: f"alpha_bar = {LINE}", r"Training\(steps=300\)": "Training(steps=2, learning_rate=0.5)"},
    ],
    "08-label-embeddings": [
        {
            r"T, few = 10, 5": "T, few = 1, 1", SCHEDULE: f"alpha_bar = {LINE}",
            r"passes, learning_rate = 35, 0\.01": "passes, learning_rate = 1, 0.5",
        },
    ],
    "09-continuous-time": [{r"epochs, learning_rate, profiles = 60, 3e-3": "epochs, learning_rate, profiles = 1, 0.3"}],
    "10-flow-matching": [{r"epochs, learning_rate = 16, 6e-3": "epochs, learning_rate = 1, 0.1"}],
    "11-the-papers-tables": [layers(1)],
    "12-gpu-benchmarking": [layers(1)],
    "13-layers-in-parallel": [layers(1)],
    "14-no-gradient-anywhere": [
        {**layers(2), SCHEDULE: f"alpha_bar = {LINE}", r"learning_rate=3e-3": "learning_rate=0.3"},
    ],
    "15-a-referees-questions": [
        {**layers(1), SCHEDULE: f"alpha_bar = {LINE}", r"Training\(steps=300\)": "Training(steps=2, learning_rate=0.5)"},
    ],
}  # fmt: skip


def changed(chapter, change):
    """The chapter's code with every pattern of the change replaced, wherever it stands."""
    book = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    cells = [nbformat.v4.new_code_cell(c.source, metadata=c.metadata) for c in book.cells if c.cell_type == "code"]
    for cell in cells:
        cell.source = cell.source.replace("plt.show()", 'plt.close("all")')
    for there, instead in {**CUT.get(chapter, {}), **change}.items():
        count = 0
        for cell in cells:
            cell.source, n = re.subn(there, instead, cell.source, flags=re.M)
            count += n
        assert count, f"{chapter} has no {there}"
    return cells


@pytest.fixture(scope="module")
def raised():
    """raised(cells): what they raise, run one after another in a reader's kernel, which asks nothing of the text's numbers."""
    kernel, readers = KernelManager(), {name: value for name, value in os.environ.items() if name != "NOPROP_CLAIMS"}
    kernel.start_kernel(env=readers, cwd=str(ROOT / "book"))

    def raised(cells):
        NotebookClient(nbformat.v4.new_notebook(cells=cells), km=kernel, timeout=600, allow_errors=True).execute()
        errors = [(cell, output) for cell in cells for output in cell.outputs if output.output_type == "error"]
        return [f"{cell.source}\n{output.ename}: {output.evalue}" for cell, output in errors]

    yield raised
    kernel.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHANGES)
def test_no_cell_raises_where_a_reader_changes_a_number(raised, chapter):
    cells = []
    for change in CHANGES[chapter]:
        forget = nbformat.v4.new_code_cell(f"%reset -s -f\n# {change}")
        cells += [forget, *changed(chapter, change)]
    assert raised(cells) == []


@pytest.mark.slow
def test_a_cell_that_raises_is_found(raised):
    sources = ["a = 1\nprint(a)", "%reset -s -f", "a", "b = 2", "assert b == 3"]
    found = raised([nbformat.v4.new_code_cell(source) for source in sources])
    assert [text.split(":")[0] for text in found] == ["a\nNameError", "assert b == 3\nAssertionError"]


def test_every_chapter_is_changed():
    assert [f"{chapter}.ipynb" for chapter in CHANGES] == sorted(path.name for path in (ROOT / "book").glob("[0-9]*.ipynb"))
