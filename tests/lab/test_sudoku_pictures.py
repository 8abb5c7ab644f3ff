"""Visual Sudoku, small: grids of classes apart, pictures of one split each, what is measured, and what a record holds."""

import functools
import math

import numpy
import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.data import load_dataset
from noprop_helpers.lab import recording, records, structured, sudoku_pictures
from noprop_helpers.lab.experiments import EXPERIMENTS, Experiment
from noprop_helpers.lab.recording import STUDIES, Recording, Study, record
from noprop_helpers.lab.schema import problems
from noprop_helpers.lab.structured import Problems
from noprop_helpers.lab.structured_study import BOARD, Bench, Judge, Plan, puzzles, split
from noprop_helpers.lab.sudoku import Board, classes, orbit, shuffled, solved
from noprop_helpers.lab.sudoku_pictures import (
    LARGE_BOARD,
    LARGE_WAYS,
    WAYS,
    Source,
    grids_apart,
    grids_to_try,
    measured,
    pictures_of,
    pictures_to,
    run_sudoku_pictures,
    run_sudoku_pictures_large,
    signature,
    solved_by_sight,
    symbols,
)

TINY = Plan(num_layers=2, hidden_dim=8, rounds=1, steps=3, batch_size=4, num_test=20)
ENDS, FIELDS = {"quiet", "noisy", "top"}, {"valid", "cells", "read", "log_likelihood"}


@functools.lru_cache(maxsize=1)
def some_digits():
    digits = load_dataset("digits")
    return digits._replace(train_images=digits.train_images[:150], train_labels=digits.train_labels[:150])


@functools.lru_cache(maxsize=1)
def tiny_study():
    return run_sudoku_pictures(some_digits(), 0, plan=TINY)


def some_large(count, seed=0):
    return grids_apart(LARGE_BOARD, count, 1, seed)[0]


# --- Grids ---


def test_a_signature_is_one_of_the_class():
    """The same for all that a symmetry makes of a grid, mirroring included where boxes are square; of most grids another."""
    grids = some_large(20)
    signatures = [signature(LARGE_BOARD, grid) for grid in grids]
    assert [signature(LARGE_BOARD, grid) for grid in shuffled(LARGE_BOARD, grids, generator())] == signatures
    assert [signature(LARGE_BOARD, grid.T) for grid in grids] == signatures
    assert len(set(signatures)) == 20
    for members in classes(BOARD)[::7]:
        moved = orbit(BOARD, members[0])[::97]
        assert {signature(BOARD, grid) for grid in moved} == {signature(BOARD, members[0])}
    assert len({signature(BOARD, members[0]) for members in classes(BOARD)}) == 40  # of 49 classes


def test_cycles_are_counted_as_by_hand():
    """4 x 4: rows 0123 and 2301 swap 0 with 2 and 1 with 3, and so do all others some two values. Then a round of three."""
    grid = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    assert solved(Board(2, 2), grid.unsqueeze(0)).all()
    assert signature(Board(2, 2), grid)[0] == ((False, (2, 2)),) * 4 + ((True, (2, 2)),) * 2
    assert sudoku_pictures._cycle_lengths([0, 1, 2, 3, 4], [1, 2, 0, 4, 3]) == (2, 3)


def test_no_symmetry_makes_a_judging_grid_of_one_to_learn_from():
    """Where classes can be listed, they are counted: none is in both parts; grids drawn without care share some."""
    class_of = {tuple(g.flatten().tolist()): k for k, members in enumerate(classes(BOARD)) for g in members}

    def found(grids):
        in_order = [grid[0].argsort()[grid] for grid in grids]
        return {class_of[tuple(grid.flatten().tolist())] for grid in in_order}

    learned, judged = grids_apart(BOARD, 12, 12)
    assert solved(BOARD, torch.cat([learned, judged])).all() and len(learned) == len(judged) == 12
    assert not found(learned) & found(judged)
    assert found(grids_apart(BOARD, 12, 12, seed=1)[0]) & found(learned)


@pytest.mark.slow
def test_grids_to_try_are_none_of_those_that_judge():
    learned, tried = ({tuple(g.flatten().tolist()) for g in part} for part in grids_to_try())
    whole = [{tuple(g.flatten().tolist()) for g in members} for members in classes(BOARD)]
    inside = [members for members in whole if members <= tried]
    assert len(inside) == 10 and sum(map(len, inside)) == len(tried)
    assert learned | tried == {tuple(g.flatten().tolist()) for g in split()[0]} and not learned & tried


# --- Pictures ---


def as_they_are(images, generator):
    return lambda images: images.flatten(1)


@pytest.mark.whole
def test_puzzles_to_learn_from_show_training_images_and_those_that_judge_test_images(monkeypatch):
    """Every given cell shows an image of its digit and of its split; an open cell shows nothing."""
    benches = []
    monkeypatch.setitem(sudoku_pictures.READERS, "patches", as_they_are)
    monkeypatch.setattr(sudoku_pictures, "Bench", lambda *how: benches.append(Bench(*how)) or benches[-1])
    dataset = some_digits()
    solved_by_sight(BOARD, split(), dataset, 0, lambda x, _: x, TINY, ("patches",))
    (bench,) = benches
    splits = ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels))
    grids = [{tuple(grid.flatten().tolist()) for grid in part} for part in split()]
    for shown, (images, labels), of_part in zip((bench.draw(20, generator()), bench.judge.problems), splits, grids):
        in_order = [y[:6].argsort()[y] for y in shown.y]  # renamed so that the first row is 0 ... 5
        assert {tuple(grid.tolist()) for grid in in_order} <= of_part
        of_split = {(tuple(i.flatten().tolist()), int(k)) for i, k in zip(images, labels)}
        given = ~shown.open
        seen = {(tuple(x.tolist()), int(y) + 1) for x, y in zip(shown.x[given], shown.y[given])}
        assert seen <= of_split and len(seen) > 50 and (shown.x[shown.open] == 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_pictures_are_of_every_digit_as_many(way):
    dataset = some_digits()
    learned, judged = pictures_to(way, 6, dataset, 0)
    if way == "symbols":
        assert torch.equal(learned, torch.eye(6).view(6, 1, 6)) and torch.equal(judged, learned)
        return
    fewest = [min(int((labels == k).sum()) for k in range(1, 7)) for labels in (dataset.train_labels, dataset.test_labels)]
    assert [part.shape for part in (learned, judged)] == [(6, n, learned.shape[2]) for n in fewest]
    assert learned.flatten(0, 1).var(0)[:8].log().abs().max() < 1.1  # about 1, whatever the pixels' own


def test_a_digit_without_images_is_named():
    labels = torch.tensor([1, 2, 3, 5, 6])
    with pytest.raises(NoPropError, match="images of the classes 1 to 6, got none of class 4"):
        pictures_of(torch.zeros(5, 1, 8, 8), labels, 6, lambda images: images.flatten(1))


def test_symbols_are_pictures_too_and_puzzles_are_the_same_however_they_are_seen():
    """Seen as symbols they are the puzzles of chapter 7's first study; and pictures change nothing but what is seen."""
    plain = puzzles(BOARD, split()[1], 0.5, 30, torch.Generator().manual_seed(0))
    as_symbols = Source(BOARD, split()[1], symbols(6)).test(30, 0.5)
    seen = Source(BOARD, split()[1], torch.rand(6, 7, 3, generator=generator())).test(30, 0.5)
    for part, name in zip(plain, Problems._fields):
        assert torch.equal(part, getattr(as_symbols, name))
    assert torch.equal(seen.y, plain.y) and torch.equal(seen.open, plain.open) and seen.x.shape == (30, 36, 3)


# --- Measuring ---


def test_what_is_measured_is_counted_as_it_says():
    plain = puzzles(BOARD, split()[0], 0.5, 8, generator())
    u_hat = structured.embedded(plain.y, 6) * 0.75 + 0.25 / 6
    found = measured(Judge(BOARD, plain), u_hat)
    assert found == {"valid": 1, "cells": 1, "read": 1, "log_likelihood": pytest.approx(math.log(0.75 + 0.25 / 6))}
    cell = (~plain.open[0]).nonzero()[0, 0] * 6  # a given cell of one puzzle, misread
    u_hat[0, cell : cell + 6] = u_hat[0, cell : cell + 6].roll(1)
    found = measured(Judge(BOARD, plain), u_hat)
    assert found["read"] == found["valid"] == 7 / 8 and found["cells"] == 1
    assert found["log_likelihood"] == pytest.approx(math.log(0.75 + 0.25 / 6))  # of open cells alone
    certain = structured.embedded((plain.y + 1) % 6, 6)
    assert -88 < measured(Judge(BOARD, plain), certain)["log_likelihood"] < -87  # wrong for sure, and yet a number


def test_every_way_fills_every_field():
    results, said = tiny_study()
    assert set(results) == {*WAYS, "one_longer"} and set(results["one_longer"]) == FIELDS
    for way in WAYS:
        assert set(results[way]) == {*ENDS, "by_share"} and set(results[way]["by_share"]) == {"0.4"}
        ends = [results[way][who] for who in ENDS] + list(results[way]["by_share"]["0.4"].values())
        assert all(set(end) == FIELDS and all(map(math.isfinite, end.values())) for end in ends)
    assert set(said) == {f"{way}_{who}" for way in WAYS for who in ENDS} | {"one_longer", "has_one_solution"}
    assert all(flags.dtype == torch.bool and flags.shape == (20,) for flags in said.values())


@pytest.mark.whole
def test_nine_by_nine_fills_them_too():
    results, said = run_sudoku_pictures_large(some_digits(), 0, plan=TINY, grids=grids_apart(LARGE_BOARD, 6, 4))
    assert set(results) == {*LARGE_WAYS, "one_longer"} and all(set(results[way]) == {*ENDS, "by_share"} for way in LARGE_WAYS)
    assert set(said) == {f"{way}_{who}" for way in LARGE_WAYS for who in ENDS} | {"one_longer", "has_one_solution"}


def test_the_large_study_says_what_it_does(monkeypatch):
    monkeypatch.setattr(sudoku_pictures, "NUM_GRIDS", (3, 2))
    told = STUDIES["sudoku_pictures_large"].describe(EXPERIMENTS["sudoku_pictures_large"], None, Recording())
    assert told["grids"] == {"learned_from": 3, "held_out": 2} and told["settings"]["rounds"] == 3
    assert told["pictures"]["ways"] == LARGE_WAYS and told["pictures"]["features"]["patches"] == 128


def test_a_record_of_puzzles_holds_flags_and_no_labels_of_images(monkeypatch, tmp_path):
    described = STUDIES["sudoku_pictures"].describe
    monkeypatch.setitem(STUDIES, "tiny", Study(lambda *_: tiny_study(), described, of_puzzles=True))
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("a test", "digits", (0, 1), study="tiny"))
    monkeypatch.setattr(recording, "load_dataset", lambda name, root=None: some_digits())
    monkeypatch.setattr(records, "git_commit", lambda: "0123456789ab")
    with pytest.raises(NoPropError, match="tiny computes on the CPU alone, got device cuda"):
        record("tiny", Recording(tmp_path, device="cuda"))
    value = record("tiny", Recording(tmp_path))
    assert problems(value) == [] and value["run"]["settings"]["num_layers"] == 20
    assert value["run"]["grids"] == dict(zip(("learned_from", "held_out"), map(len, split())))
    assert "labels" not in numpy.load(tmp_path / "tiny.npz")
    assert torch.equal(records.right("tiny", tmp_path)["patches_quiet"][1], tiny_study()[1]["patches_quiet"])


@pytest.mark.slow
def test_a_small_chain_reads_and_solves_more_than_its_top_layer(digits):
    *known, unknown = classes(Board(2, 2))
    plan = Plan(num_layers=4, hidden_dim=24, rounds=1, steps=150, num_test=200)
    results, _ = solved_by_sight(Board(2, 2), (torch.cat(known), unknown), digits, 0, lambda x, _: x, plan, ("pixels",))
    quiet, top = (results["pixels"][who] for who in ("quiet", "top"))
    assert quiet["valid"] > top["valid"] + 0.1 and quiet["read"] > 0.85
    assert results["pixels"]["by_share"]["0.4"]["quiet"]["valid"] < quiet["valid"]
