"""The study of chapters 7 and 15, small: its puzzles, its judge, its opponents, and what a record holds."""

import dataclasses
import functools

import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.lab import structured, structured_study
from noprop_helpers.lab.structured_study import (
    BOARD,
    NOISE_SCALES,
    OPPONENTS,
    RIVALS,
    SHARES,
    Bench,
    Judge,
    Plan,
    as_many_parameters,
    filled_in,
    is_valid,
    num_solutions,
    pictured,
    puzzles,
    run_sudoku,
    run_sudoku_again,
    run_sudoku_cut,
    run_sudoku_deeper,
    run_sudoku_few,
    run_sudoku_rates,
    run_sudoku_rivals,
    run_sudoku_sizes,
    split,
)
from noprop_helpers.lab.sudoku import classes, solutions, solved
from noprop_helpers.schedules import cosine_alpha_bar

TINY = Plan(num_layers=2, hidden_dim=8, steps=3, batch_size=4, num_test=20)


@functools.lru_cache(maxsize=1)
def tiny_study():
    return run_sudoku(0, plan=TINY)


def some_puzzles(count=50, share=0.5, seed=0):
    return puzzles(BOARD, split()[0], share, count, generator(seed))


@pytest.mark.whole
def test_held_out_grids_are_of_classes_that_nobody_learns_from():
    """10 of 49 classes, whole; and all grids are in one part or the other."""
    learned, held_out = ({tuple(g.flatten().tolist()) for g in part} for part in split())
    assert not learned & held_out and len(learned) + len(held_out) == 39_168
    in_part = [{tuple(g.flatten().tolist()) in held_out for g in members} for members in classes(BOARD)]
    assert all(len(part) == 1 for part in in_part) and sum(part == {True} for part in in_part) == 10


@pytest.mark.whole
def test_a_puzzle_shows_its_given_cells_and_nothing_of_the_others():
    x, y, opened = some_puzzles(400)
    assert solved(BOARD, y.unflatten(1, (6, 6))).all()
    given = ~opened
    assert torch.equal(x[given].argmax(1), y[given]) and (x[given].sum(1) == 1).all() and (x[~given] == 0).all()
    assert given.double().mean().item() == pytest.approx(0.5, abs=5 * (0.25 / given.numel()) ** 0.5)
    again = some_puzzles(400)
    assert torch.equal(x, again.x) and not torch.equal(x, some_puzzles(400, seed=1).x)


def test_a_seen_puzzle_shows_a_picture_of_every_given_cell_and_none_of_the_others():
    pictures = torch.arange(1.0, 19).view(6, 3, 1)  # symbol k has the pictures 3 k + 1, 3 k + 2 and 3 k + 3
    plain = puzzles(BOARD, split()[0][:5], 0.5, 200, generator())
    x, y, is_open = pictured(plain, pictures, generator(1))
    assert torch.equal(y, plain.y) and torch.equal(is_open, plain.open) and x.shape == (200, 36, 1)
    shown = x[..., 0]
    assert (shown[is_open] == 0).all() and torch.equal(((shown[~is_open] - 1) // 3).long(), y[~is_open])
    assert shown.unique().tolist() == list(range(19))  # all pictures come
    with pytest.raises(NoPropError, match="pictures of 6 symbols, got 5"):
        pictured(plain, pictures[:5], generator())


def test_an_answer_is_valid_if_it_keeps_the_rules_and_what_is_given():
    problems = some_puzzles()
    y = problems.y
    assert is_valid(BOARD, problems, y).all()
    wrong = y.clone()
    wrong[:, 0] = (wrong[:, 0] + 1) % 6
    assert not is_valid(BOARD, problems, wrong).any()  # against the rules
    other = y.roll(1, 0)
    assert solved(BOARD, other.unflatten(1, (6, 6))).all() and not is_valid(BOARD, problems, other).any()  # another puzzle's answer


def test_another_solution_is_as_good():
    """Two cells of two rows that can be swapped: both grids are valid answers to the puzzle that leaves them open."""
    problems = some_puzzles(300, share=0.45)
    several = num_solutions(BOARD, problems, limit=3) > 1
    assert 0.3 < several.double().mean() < 1
    i = int(several.nonzero()[0])
    found = solutions(BOARD, problems.y[i].masked_fill(problems.open[i], -1).view(6, 6), 2)
    said = torch.stack(found).flatten(1)
    twice = structured.Problems(*(part[i].expand(2, *part[i].shape) for part in problems))
    assert is_valid(BOARD, twice, said).all() and not torch.equal(*said)


def test_the_judge_counts_puzzles_and_open_cells_and_keeps_who_solved_what():
    problems = some_puzzles(40)
    judge, said = Judge(BOARD, problems), problems.y.clone()
    opened = problems.open
    said[:10] = (said[:10] + opened[:10].long()) % 6  # every open cell of a quarter of the puzzles
    result = judge(said, "mine")
    assert result["valid"] == 0.75 and judge.said["mine"].tolist() == 10 * [False] + 30 * [True]
    assert result["cells"] == pytest.approx((opened[10:].sum() / opened.sum()).item())
    assert judge.of_state(structured.embedded(problems.y, 6)) == {"valid": 1.0, "cells": 1.0}
    assert list(judge.said) == ["mine"]
    others = some_puzzles(30, seed=1)
    of_others = judge.of(others)
    assert of_others(others.y)["valid"] == 1 and of_others.board == BOARD and of_others.said == {}


def test_an_iterative_decoder_fills_in_the_surest_cell_first():
    """A layer that knows the answer, one cell better than the next: it is asked as often as cells are open."""
    problems = some_puzzles(5, share=0.8)
    asked = []

    def oracle(x, z):
        asked.append((x.sum(2) > 0).sum(1))
        sure = 1 + torch.arange(36.0).view(1, 36, 1)  # the last cell is the surest
        return sure * torch.nn.functional.one_hot(problems.y, 6)

    assert torch.equal(filled_in(oracle, BOARD, problems, generator()), problems.y)
    counts = torch.stack(asked)  # [times asked, puzzles]
    assert len(asked) == int(problems.open.sum(1).max())
    assert (counts[1:] - counts[:-1] <= 1).all() and (counts[-1].max() >= 35)


def test_the_wide_opponent_has_as_many_parameters_as_the_chain():
    bench = Bench(TINY, 0)
    of_the_chain = sum(p.numel() for layer in bench.layers(2) for p in layer.parameters())
    hidden_dim = as_many_parameters(bench)
    wide, less_wide = (sum(p.numel() for p in bench.layers(1, n)[0].parameters()) for n in (hidden_dim, hidden_dim - 1))
    assert less_wide < of_the_chain <= wide


def test_test_puzzles_are_the_same_for_every_seed_and_layers_are_not():
    one, other = Bench(TINY, 0), Bench(TINY, 1)
    assert torch.equal(one.judge.x, other.judge.x)
    assert not torch.equal(one.layers(1)[0].say.weight, other.layers(1)[0].say.weight)
    assert torch.equal(one.layers(1)[0].say.weight, Bench(TINY, 0).layers(1)[0].say.weight)


def test_the_record_holds_what_the_chapter_reads():
    results, said = tiny_study()
    chain = results["chain"]
    assert set(results["opponents"]) == set(OPPONENTS)
    assert set(chain["by_noise_scale"]) == {str(scale) for scale in NOISE_SCALES}
    assert set(chain["by_share"]) == {str(share) for share in SHARES}
    assert len(chain["by_layer"]) == len(chain["state_lost"]) == len(chain["state_of_another"]) == 2
    assert 1 <= chain["repeated"]["layer"] <= 2
    assert set(said) == {"quiet", "noisy", "top", "mean_of_layers", "has_one_solution", *OPPONENTS}
    assert all(flags.dtype == torch.bool and flags.shape == (20,) for flags in said.values())
    rivals, of_rivals = run_sudoku_rivals(0, plan=TINY)
    assert set(rivals["opponents"]) == set(of_rivals) == set(RIVALS)
    cut, of_cut = run_sudoku_cut(0, plan=TINY)
    assert set(cut["opponents"]) == set(of_cut) == {"whole", "cut"}


def test_a_seed_says_the_same_again():
    assert run_sudoku(0, plan=TINY)[0] == tiny_study()[0]


def test_the_sizes_hold_a_chain_of_every_kind():
    sizes = {"by_depth": (1, 2), "by_width": (4,), "by_rounds": (1,), "by_steps": (1,)}
    results, said = run_sudoku_sizes(0, plan=TINY, sizes=sizes)
    assert {kind: tuple(map(int, found)) for kind, found in results.items()} == sizes
    assert all(set(one) == {"top", "quiet", "noisy"} for found in results.values() for one in found.values()) and not said


def test_one_layer_of_more_rounds_is_trained_for_as_many_rounds_as_the_chain(monkeypatch):
    """Judged at every rate by puzzles of known classes, to choose by, and by those held out, which alone are kept."""
    plan, trained = dataclasses.replace(TINY, rounds=4, num_layers=6), []
    train = structured_study.trained_top
    monkeypatch.setattr(
        structured_study, "trained_top",
        lambda bench, draw, steps: trained.append((steps, bench.plan.learning_rate)) or train(bench, draw, steps=1),
    )  # fmt: skip
    results, said = run_sudoku_deeper(0, plan=plan, rates=(1e-3, 1e-2))
    assert trained == [(6 * TINY.steps * 2 // 4, 1e-3), (6 * TINY.steps * 2 // 4, 1e-2)]
    assert {rate: set(one) for rate, one in results.items()} == {"0.001": {"known", "held_out"}, "0.01": {"known", "held_out"}}
    assert set(said) == {"at_0.001", "at_0.01"} and said["at_0.01"].double().mean().item() == results["0.01"]["held_out"]["valid"]
    assert results["0.01"]["known"]["cells"] != results["0.01"]["held_out"]["cells"]


def test_chains_of_few_layers_share_out_as_many_rounds_as_the_chain_trains_for(monkeypatch):
    plan, trained = dataclasses.replace(TINY, rounds=4, num_layers=6), []
    train = structured.train_apart

    def counted(layers, levels, draw, training, generator):
        trained.append((len(layers), training.steps))
        return train(layers, levels, draw, training._replace(steps=1), generator)

    monkeypatch.setattr(structured, "train_apart", counted)
    results, said = run_sudoku_few(0, plan=plan, counts=(1, 3))
    assert trained == [(1, 6 * TINY.steps * 2 // 4), (3, 6 * TINY.steps * 2 // 12)]
    ways = {"top", "quiet", "noisy"}
    assert {count: set(one) for count, one in results.items()} == {"1": ways, "3": ways}
    assert set(said) == {f"{count}_layers/{way}" for count in (1, 3) for way in ways}
    assert said["3_layers/quiet"].double().mean().item() == results["3"]["quiet"]["valid"]


def test_each_layer_is_asked_again_about_its_own_answer(monkeypatch):
    asked = []
    monkeypatch.setattr(
        structured, "repeated",
        lambda layer, level, x, z, times: asked.append((level, times)) or structured.guess(layer, x, z),
    )  # fmt: skip
    results, said = run_sudoku_again(0, plan=TINY)
    levels = cosine_alpha_bar(2).tolist()[1:]
    assert asked == [(levels[0], 1), (levels[0], 2), (levels[1], 1), (levels[1], 2)] and said == {}
    assert [set(one) for one in results["by_layer"]] == [{"once", "again"}] * 2


def test_rates_are_chosen_by_puzzles_of_known_classes(monkeypatch):
    seen = []
    monkeypatch.setattr(structured_study, "Judge", lambda board, problems: seen.append(problems) or Judge(board, problems))
    results, said = run_sudoku_rates(0, plan=TINY, rates=(1e-2,))
    assert set(results) == {"chain", *OPPONENTS, *RIVALS} and set(results["chain"]) == {"0.01"} and said == {}
    assert {*run_sudoku_rates(0, plan=TINY, rates=(0.02,), names=("chain", "tied"))[0]} == {"chain", "tied"}
    test, known = seen[:2]
    assert not torch.equal(test.y, known.y)
    learned_from, _ = split()
    in_order = [grid.unflatten(0, (6, 6)) for grid in known.y[:5]]
    for grid in in_order:
        names = grid[0].argsort()
        assert (names[grid] == learned_from).flatten(1).all(1).any()


@pytest.mark.whole
def test_the_chain_learns_what_its_top_layer_cannot():
    """Small and quick, and yet: the chain solves puzzles that its top layer does not."""
    bench = Bench(Plan(num_layers=5, hidden_dim=24, rounds=1, steps=120, num_test=300), 0)
    chain = bench.chain(5)
    quiet, top = bench.judge.of_state(bench.walked(chain)), bench.judge.of_state(bench.asked(chain.layers[-1]))
    assert quiet["valid"] > top["valid"] + 0.1 and quiet["cells"] > top["cells"] + 0.05
