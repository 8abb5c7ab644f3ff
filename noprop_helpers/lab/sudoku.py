"""Sudoku: a label of many cells that must fit together. Boards, their symmetries, puzzles, what counts as solved, and a layer.

A grid is an int64 tensor [S, S] of values 0 ... S - 1, S = h w for boxes of h rows and w columns; many grids are [B, S, S].
"""

import functools
import itertools
import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import NoPropError


class Board(NamedTuple):
    """Boxes of ``height`` rows and ``width`` columns; (2, 2), (2, 3) and (3, 3) are the boards of 4, 6 and 9 values."""

    height: int
    width: int

    @property
    def size(self) -> int:
        """S, the number of values, rows, columns and boxes."""
        return self.height * self.width


def boxes(board: Board, cells: Tensor) -> Tensor:
    """Cells [B, S, S, ...] in another order -> [B, S boxes, S cells, ...], boxes row by row. ``unboxed`` undoes it.

    >>> boxes(Board(2, 2), torch.arange(16).view(1, 4, 4))[0, 1]  # the box at the top right
    tensor([2, 3, 6, 7])
    """
    h, w = board
    parts = cells.unflatten(1, (w, h)).unflatten(3, (h, w))  # [B, w bands, h, h stacks, w, ...]
    return parts.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def unboxed(board: Board, cells: Tensor) -> Tensor:
    """Cells box by box [B, S, S, ...] -> row by row [B, S, S, ...].

    >>> cells = torch.arange(36).view(1, 6, 6)
    >>> bool((unboxed(Board(2, 3), boxes(Board(2, 3), cells)) == cells).all())
    True
    """
    h, w = board
    parts = cells.unflatten(1, (w, h)).unflatten(3, (h, w))  # [B, w bands, h stacks, h, w, ...]
    return parts.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def conflicts(board: Board, grids: Tensor) -> Tensor:
    """Which cells hold a value that stands again in their row, column or box: [B, S, S] -> [B, S, S] bool.

    >>> grid = torch.tensor([[[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 1]]])
    >>> conflicts(Board(2, 2), grid)[0].nonzero().tolist()  # the two ones below, and the one above them
    [[1, 3], [3, 2], [3, 3]]
    """
    one_hot = nn.functional.one_hot(grids, board.size)  # [B, S, S, S]
    in_box = boxes(board, one_hot)
    in_box = unboxed(board, in_box.sum(2, keepdim=True).expand_as(in_box))  # how often each value stands in a cell's box
    counts = one_hot.sum(1, keepdim=True), one_hot.sum(2, keepdim=True), in_box
    return torch.stack([((count * one_hot).sum(3) > 1) for count in counts]).any(0)


def solved(board: Board, grids: Tensor) -> Tensor:
    """Whether every value stands once in each row, column and box: [B, S, S] -> [B] bool.

    >>> solved(Board(2, 2), torch.tensor([[[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]]]))
    tensor([True])
    """
    return ~conflicts(board, grids).flatten(1).any(1)


# --- Symmetries -------------------------------------------------------------------------------------------------------


def shuffled(board: Board, grids: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each grid moved by a symmetry of its own: rows and bands, columns and stacks reordered, values renamed. [B, S, S].

    >>> grid = torch.tensor([[[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]]])
    >>> solved(Board(2, 2), shuffled(Board(2, 2), grid.expand(5, -1, -1))).tolist()
    [True, True, True, True, True]
    """
    count, S = len(grids), board.size

    def lines(groups: int, size: int) -> Tensor:
        """Orders [B, groups * size] of rows or columns: of groups among themselves, and of lines within a group."""
        outer = torch.rand(count, groups, generator=generator).argsort(1)  # [B, groups]
        inner = torch.rand(count, groups, size, generator=generator).argsort(2)
        return (outer.unsqueeze(2) * size + inner.gather(1, outer.unsqueeze(2).expand(inner.shape))).flatten(1)

    rows, columns = lines(board.width, board.height), lines(board.height, board.width)
    names = torch.rand(count, S, generator=generator).argsort(1)
    moved = grids.gather(1, rows.unsqueeze(2).expand(-1, -1, S)).gather(2, columns.unsqueeze(1).expand(-1, S, -1))
    return names.gather(1, moved.flatten(1)).view_as(grids)


def grids_in_order(board: Board) -> Tensor:
    """All solved grids whose first row is 0, 1, ..., S - 1: [G, S, S]. Times S! these are all grids.

    Row after row, every permutation that fits the rows above. Raises NoPropError above 6 x 6, where there are too many.

    >>> len(grids_in_order(Board(2, 2)))  # of 4 x 4, times 4! there are 288
    12
    """
    S, h = board.size, board.height
    if S > 6:
        raise NoPropError(f"the grids of {S} x {S} cannot be listed; the largest board for that is 6 x 6")
    rows = torch.tensor(list(itertools.permutations(range(S))))  # [S!, S], in the order of words
    by_box = (2 ** rows.unflatten(1, (h, board.width))).sum(2)  # [S!, h]: the values in each box, as bits
    columns_fit = torch.stack([(rows != row).all(1) for row in rows])
    boxes_fit = torch.stack([((by_box & bits) == 0).all(1) for bits in by_box])
    grids = torch.zeros(1, 1, dtype=torch.int64)  # numbers of rows
    for r in range(1, S):
        fits = columns_fit[grids].all(1)  # [G, S!]
        if r % h:
            fits &= boxes_fit[grids[:, r - r % h :]].all(1)
        grid, row = fits.nonzero(as_tuple=True)
        grids = torch.cat([grids[grid], row.unsqueeze(1)], 1)
    return rows[grids]


def line_orders(groups: int, size: int) -> Tensor:
    """All orders of ``groups`` x ``size`` lines that keep groups together: [groups! size!^groups, groups * size].

    >>> line_orders(2, 2)[:3].tolist()
    [[0, 1, 2, 3], [0, 1, 3, 2], [1, 0, 2, 3]]
    >>> len(line_orders(2, 3))  # 2! orders of the groups, 3! within each
    72
    """
    inner = list(itertools.permutations(range(size)))
    orders = [
        [g * size + i for g, within in zip(outer, inners) for i in within]
        for outer in itertools.permutations(range(groups))
        for inners in itertools.product(inner, repeat=groups)
    ]
    return torch.tensor(orders)


def orbit(board: Board, grid: Tensor) -> Tensor:
    """What the symmetries make of one grid, renamed so that the first row is in order: [S, S] -> [moves, S, S].

    >>> grid = grids_in_order(Board(2, 2))[0]
    >>> orbit(Board(2, 2), grid).shape  # 8 orders of the rows, 8 of the columns
    torch.Size([64, 4, 4])
    """
    rows, columns = line_orders(board.width, board.height), line_orders(board.height, board.width)
    moved = grid[rows][:, :, columns].transpose(1, 2).flatten(0, 1)  # [moves, S, S]
    names = moved[:, 0].argsort(1)  # the value v of the first row stands in column names[v]
    return names.gather(1, moved.flatten(1)).view_as(moved)


@functools.lru_cache(maxsize=3)
def classes(board: Board) -> tuple[Tensor, ...]:
    """The grids of ``grids_in_order`` by class, the smallest class first: tuple of [n, S, S].

    Two grids are of one class if a symmetry makes one of the other. 4 x 4 has three classes, 6 x 6 has 49.

    >>> [len(grids) for grids in classes(Board(2, 2))]
    [4, 4, 4]
    """
    grids = grids_in_order(board)
    numbers, order = _numbers(board, grids).sort()
    class_of, found = torch.full((len(grids),), -1), 0
    for i in range(len(grids)):
        if class_of[i] < 0:
            class_of[torch.searchsorted(numbers, _numbers(board, orbit(board, grids[order[i]])))] = found
            found += 1
    members = [grids[order[class_of == k]] for k in range(found)]
    return tuple(sorted(members, key=len))


def _numbers(board: Board, grids: Tensor) -> Tensor:
    """A number for every grid of at most 6 x 6, another one for another grid: [B, S, S] -> [B] int64."""
    S = board.size
    # S^(S * S) is too much for 64 bits; a row is one of only S! permutations.
    permutations = torch.tensor(list(itertools.permutations(range(S))))
    digits = S ** torch.arange(S)
    rank = torch.zeros(S**S, dtype=torch.int64)
    rank[permutations @ digits] = torch.arange(len(permutations))
    return (rank[grids[:, 1:] @ digits] * len(permutations) ** torch.arange(S - 1)).sum(1)


# --- Puzzles ----------------------------------------------------------------------------------------------------------


def solutions(board: Board, puzzle: Tensor, limit: int = 2, chance: random.Random | None = None) -> list[Tensor]:
    """Up to ``limit`` solved grids [S, S] that agree with a puzzle [S, S], in which -1 is an empty cell.

    Depth first, the cell with the fewest possible values next; these values in order, or as ``chance`` shuffles them.

    >>> puzzle = torch.tensor([[0, 1, 2, 3], [2, 3, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, -1]])
    >>> len(solutions(Board(2, 2), puzzle)), len(solutions(Board(2, 2), puzzle, limit=100))
    (2, 6)
    """
    S, (h, w) = board.size, board
    units = [(r, S + c, 2 * S + r // h * h + c // w) for r in range(S) for c in range(S)]  # row, column, box of a cell
    cells, used, found = puzzle.flatten().tolist(), [0] * (3 * S), []

    def flip(cell: int, value: int) -> None:  # put a value into the units of a cell, or take it out again
        for unit in units[cell]:
            used[unit] ^= 1 << value

    def possible(cell: int) -> list[int]:
        row, column, box = units[cell]
        taken = used[row] | used[column] | used[box]
        return [value for value in range(S) if not taken >> value & 1]

    def search() -> None:
        """Fill the cell with the fewest values left by each of them, and search on, until there are as many as asked for."""
        empty = [(len(possible(cell)), cell) for cell in range(S * S) if cells[cell] < 0]
        if not empty:
            found.append(torch.tensor(cells).view(S, S))
            return
        cell = min(empty)[1]
        values = possible(cell)
        if chance is not None:
            chance.shuffle(values)
        for value in values:
            cells[cell] = value
            flip(cell, value)
            search()
            flip(cell, value)
            if len(found) == limit:
                break
        cells[cell] = -1

    for cell, value in enumerate(cells):
        if value >= 0:
            if value not in possible(cell):
                return []
            flip(cell, value)
    search()
    return found


# --- A layer ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=3)
def units(board: Board) -> Tensor:
    """Which cells make each row, each column, each box: [3, S, S * S] of zeros and ones.

    >>> units(Board(2, 2))[2, 1]  # the box at the top right
    tensor([0., 0., 1., 1., 0., 0., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0.])
    """
    cells = torch.arange(board.size**2).view(board.size, board.size)
    members = torch.stack([cells, cells.T, boxes(board, cells.unsqueeze(0))[0]])  # [3, S, S]: the cells of every unit
    return nn.functional.one_hot(members, board.size**2).sum(2).float()


class BoardLayer(nn.Module):
    """Messages between cells: each makes something of what it sees, hears the mean of its row, its column and its box, as often
    as there are ``rounds``, and says what it holds. All cells share their weights: none knows where on the board it is.

    x [B, S * S, F], of every cell what is given, and the state z [B, S * S * S] -> scores [B, S * S, S].

    >>> layer = BoardLayer(Board(2, 2), num_features=4, hidden_dim=8)
    >>> layer(torch.zeros(3, 16, 4), torch.zeros(3, 64)).shape
    torch.Size([3, 16, 4])
    """

    def __init__(self, board: Board, num_features: int, hidden_dim: int = 64, rounds: int = 2):
        super().__init__()
        self.board = board
        self.num_coordinates, self.num_symbols = board.size**2, board.size
        self.look = nn.Linear(num_features + board.size, hidden_dim)
        self.own = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(rounds))
        bound = hidden_dim**-0.5  # as nn.Linear draws its weights
        weights = (torch.empty(3, hidden_dim, hidden_dim).uniform_(-bound, bound) for _ in range(rounds))
        self.of_units = nn.ParameterList(map(nn.Parameter, weights))  # what is made of a row's mean, a column's, a box's
        self.say = nn.Linear(hidden_dim, board.size)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [B, S * S, F], z [B, S * S * S] -> scores [B, S * S, S]."""
        S, member = self.board.size, units(self.board).to(x).flatten(0, 1)  # [3 S, S * S]
        seen = torch.cat([x, z.unflatten(1, (S * S, S))], 2)  # [B, S * S, F + S]
        state = self.look(seen.transpose(0, 1)).relu()  # [S * S, B, H]: the cells first, so that their means are one product
        for own, of_units in zip(self.own, self.of_units):
            means = (member / S) @ state.flatten(1)  # [3 S, B H]
            heard = torch.bmm(means.view(3, -1, state.shape[2]), of_units)  # [3, S B, H]
            state = (own(state) + (member.T @ heard.view(3 * S, -1)).view_as(state)).relu()
        return self.say(state).transpose(0, 1)
