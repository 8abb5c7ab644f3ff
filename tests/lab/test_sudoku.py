import itertools
import math
import random

import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.lab.sudoku import (
    Board,
    BoardLayer,
    boxes,
    classes,
    conflicts,
    grids_in_order,
    orbit,
    shuffled,
    solutions,
    solved,
    unboxed,
    units,
)

SMALL, MIDDLE, LARGE = Board(2, 2), Board(2, 3), Board(3, 3)
each_board = pytest.mark.parametrize("board", [SMALL, MIDDLE, LARGE], ids=lambda board: f"{board.size}x{board.size}")


def some_grids(board, count):
    empty = torch.full((board.size, board.size), -1)
    return torch.stack([solutions(board, empty, 1, random.Random(seed))[0] for seed in range(count)])


def solved_by_definition(board, grid):
    """Row by row, column by column, box by box, with sets."""
    S, (h, w) = board.size, board
    everything = set(range(S))
    rows = all(set(grid[r]) == everything for r in range(S))
    columns = all({grid[r][c] for r in range(S)} == everything for c in range(S))
    return rows and columns and all(
        {grid[r + i][c + j] for i in range(h) for j in range(w)} == everything
        for r in range(0, S, h)
        for c in range(0, S, w)
    )  # fmt: skip


def test_boxes_are_as_drawn():
    cells = torch.arange(36).view(1, 6, 6)
    assert boxes(MIDDLE, cells)[0, :2].tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert boxes(MIDDLE, cells)[0, 5].tolist() == [27, 28, 29, 33, 34, 35]


@each_board
def test_boxes_can_be_undone_and_keep_what_a_cell_holds(board):
    cells = torch.arange(2 * board.size**2 * 3).view(2, board.size, board.size, 3)
    assert torch.equal(unboxed(board, boxes(board, cells)), cells)


@each_board
def test_solved_is_what_the_rules_say(board):
    grids = some_grids(board, 3)
    assert solved(board, grids).all()
    spoilt = [grids.clone() for _ in range(3)]
    spoilt[0][:, 0, 0] = grids[:, 0, 1]  # a value twice in a row
    spoilt[1][:, [0, -1]] = grids[:, [-1, 0]]  # rows of two bands swapped: boxes may be wrong, and nothing else
    spoilt[2] = grids.sort(2).values  # rows and nothing else
    for grids in spoilt:
        assert solved(board, grids).tolist() == [solved_by_definition(board, grid) for grid in grids.tolist()]
    assert not solved(board, spoilt[0]).any() and not solved(board, spoilt[2]).any()


@each_board
def test_conflicts_are_the_cells_that_see_their_own_value_again(board):
    S, (h, w) = board.size, board
    grids = torch.randint(S, (5, S, S), generator=generator())
    for grid, found in zip(grids.tolist(), conflicts(board, grids).tolist()):
        for r, c in itertools.product(range(S), repeat=2):
            seen = [
                grid[i][j]
                for i, j in itertools.product(range(S), repeat=2)
                if (i, j) != (r, c) and (i == r or j == c or (i // h, j // w) == (r // h, c // w))
            ]
            assert found[r][c] == (grid[r][c] in seen)


def test_boxes_alone_can_be_wrong():
    assert not solved(SMALL, torch.tensor([[[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]])).any()


def test_columns_or_rows_alone_can_be_wrong():
    """Every row and every box of this grid is right; turned over, every column and every box."""
    grid = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1], [0, 1, 2, 3], [2, 3, 0, 1]])
    assert not solved(SMALL, grid[None]).any()
    assert not solved(SMALL, grid.T[None]).any()


def test_all_grids_of_4_by_4_are_those_of_brute_force():
    rows = [row for row in itertools.permutations(range(4))]
    brute = {g for g in itertools.product([(0, 1, 2, 3)], rows, rows, rows) if solved_by_definition(SMALL, g)}
    listed = [tuple(map(tuple, g)) for g in grids_in_order(SMALL).tolist()]
    assert set(listed) == brute and len(listed) == len(brute) == 12
    assert [len(members) for members in classes(SMALL)] == [4, 4, 4]


@pytest.mark.whole
def test_grids_and_classes_of_6_by_6_are_as_many_as_they_should_be():
    """28,200,960 grids; every one in exactly one of 49 classes, each class as large as its orbit says."""
    grids, members = grids_in_order(MIDDLE), classes(MIDDLE)
    assert solved(MIDDLE, grids).all() and len(grids.unique(dim=0)) == len(grids)
    assert len(grids) * math.factorial(6) == 28_200_960
    assert len(members) == 49 and torch.equal(torch.cat(members).unique(dim=0), grids.unique(dim=0))
    for some in members[::12]:
        assert len(orbit(MIDDLE, some[0]).unique(dim=0)) == len(some)
        assert torch.equal(orbit(MIDDLE, some[-1]).unique(dim=0), some.unique(dim=0))


@pytest.mark.whole
def test_moves_stay_in_the_class():
    """A grid moved at random, named anew in the order of its first row, is one of its own class and of no other."""
    members = classes(MIDDLE)
    for some, other in zip(members[:5], members[1:6]):
        moved = shuffled(MIDDLE, some[:1].expand(30, -1, -1), generator(1))
        in_order = moved[:, 0].argsort(1).gather(1, moved.flatten(1)).view_as(moved)
        own, others = ({tuple(g.flatten().tolist()) for g in grids} for grids in (some, other))
        found = {tuple(g.flatten().tolist()) for g in in_order}
        assert found <= own and not found & others and len(found) > 5


@each_board
def test_moves_keep_a_grid_solved_and_reach_all_of_it(board):
    grids = some_grids(board, 1).expand(400, -1, -1)
    moved = shuffled(board, grids, generator())
    assert solved(board, moved).all()
    # Every value comes to every cell about equally often: 400 / S times, within five standard deviations.
    share = torch.nn.functional.one_hot(moved, board.size).double().mean(0)
    p = 1 / board.size
    assert (share - p).abs().max() < 5 * (p * (1 - p) / 400) ** 0.5
    assert torch.equal(moved, shuffled(board, grids, generator()))


def test_large_boards_cannot_be_listed():
    with pytest.raises(NoPropError, match="the grids of 9 x 9 cannot be listed; the largest board for that is 6 x 6"):
        grids_in_order(LARGE)


def test_the_solver_finds_every_solution_and_no_other():
    empty_first_row = torch.full((4, 4), -1)
    empty_first_row[0] = torch.arange(4)
    found = torch.stack(solutions(SMALL, empty_first_row, limit=100))
    assert torch.equal(found.unique(dim=0), grids_in_order(SMALL).unique(dim=0)) and len(found) == 12
    assert len(solutions(SMALL, empty_first_row, limit=5)) == 5


@each_board
def test_the_solver_keeps_to_what_is_given(board):
    for seed, grid in enumerate(some_grids(board, 3)):
        given = torch.rand(grid.shape, generator=generator(seed)) < 0.6
        found = solutions(board, torch.where(given, grid, -1), limit=50)
        assert any(torch.equal(grid, one) for one in found)
        assert all(torch.equal(one[given], grid[given]) for one in found) and solved(board, torch.stack(found)).all()


def test_the_solver_sees_that_there_is_no_solution():
    contradiction = torch.full((4, 4), -1)
    contradiction[0, 0] = contradiction[0, 3] = 2
    assert solutions(SMALL, contradiction) == []
    dead_end = torch.tensor([[0, 1, 2, -1], [-1, -1, -1, 3], [-1, -1, -1, -1], [-1, -1, -1, -1]])
    assert solutions(SMALL, dead_end) == []


def test_the_solver_leaves_the_puzzle_alone_and_chance_decides_which_comes_first():
    empty = torch.full((6, 6), -1)
    firsts = {tuple(solutions(MIDDLE, empty, 1, random.Random(seed))[0].flatten().tolist()) for seed in range(5)}
    assert len(firsts) == 5 and (empty == -1).all()


# --- The layer ---


def scores_of(board, layer, grids, given):
    x = torch.nn.functional.one_hot(grids, board.size).flatten(1, 2) * given.flatten(1).unsqueeze(2)
    return layer(x.float(), torch.zeros(len(grids), board.size**3))


@each_board
def test_the_units_are_the_rows_the_columns_and_the_boxes(board):
    S, (h, w) = board.size, board
    for kind, of in zip(units(board), (lambda r, c: r, lambda r, c: c, lambda r, c: r // h * h + c // w)):
        assert kind.tolist() == [[float(of(*divmod(cell, S)) == unit) for cell in range(S * S)] for unit in range(S)]


@each_board
def test_a_cell_hears_its_row_its_column_its_box_and_nobody_else_in_one_round(board):
    torch.manual_seed(0)
    layer, S, (h, w) = BoardLayer(board, board.size, 16, rounds=1), board.size, board
    x, z = torch.rand(1, S * S, S), torch.randn(1, S**3).requires_grad_()
    for cell in (0, S * S // 2, S * S - 1):
        (gradient,) = torch.autograd.grad(layer(x, z)[0, cell].sum(), z)
        heard = {i for i in range(S * S) if gradient[0].unflatten(0, (S * S, S))[i].abs().max() > 0}
        r, c = divmod(cell, S)
        units = {i for i in range(S * S) if i // S == r or i % S == c or (i // S // h, i % S // w) == (r // h, c // w)}
        assert heard == units
    assert layer(x, z).shape == (1, S * S, S)


def test_two_rounds_reach_further():
    torch.manual_seed(0)
    layer = BoardLayer(MIDDLE, 6, 16, rounds=2)
    z = torch.randn(1, 216).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(torch.rand(1, 36, 6), z)[0, 0].sum(), z)
    assert (gradient.unflatten(1, (36, 6)).abs().amax((0, 2)) > 0).all()


@each_board
def test_the_layer_answers_a_moved_puzzle_with_the_moved_answer(board):
    """Rows and columns reordered within their bands: the rules do not change, and neither does the layer."""
    torch.manual_seed(0)
    layer, S, (h, w) = BoardLayer(board, board.size, 16), board.size, board
    rows = torch.cat([torch.arange(S).view(w, h).flip(0).flatten()])  # bands in reverse order
    columns = torch.arange(S).view(h, w).flip(1).flatten()  # columns in reverse order within each stack
    grids, given = some_grids(board, 2), torch.rand(2, S, S, generator=generator()) < 0.5
    moved = scores_of(board, layer, grids[:, rows][:, :, columns], given[:, rows][:, :, columns])
    plain = scores_of(board, layer, grids, given).unflatten(1, (S, S))
    torch.testing.assert_close(moved.unflatten(1, (S, S)), plain[:, rows][:, :, columns])
