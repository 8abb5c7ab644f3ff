import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex

from noprop_helpers.lab import plots
from noprop_helpers.lab.sudoku import Board


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_grey_images_are_dark_ink_on_white():
    _, ax = plt.subplots()
    plots.plot_image(ax, torch.tensor([[[0.0, 1.0]]]))
    assert ax.images[0].get_array().tolist() == [[1.0, 0.0]]


def test_colour_images_are_as_they_are():
    _, ax = plt.subplots()
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    plots.plot_image(ax, image)
    assert ax.images[0].get_array().shape == (4, 5, 3)
    assert ax.images[0].get_array()[1, 2].tolist() == image[:, 1, 2].tolist()


def test_a_states_bars_are_its_numbers_and_the_true_class_stands_out():
    _, ax = plt.subplots()
    plots.plot_state(ax, torch.tensor([0.5, -1.0, 2.0]), true_label=2, class_names=["a", "b", "c"])
    assert [bar.get_height() for bar in ax.patches] == [0.5, -1.0, 2.0]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == [plots.GREY, plots.GREY, plots.BLUE]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]


def test_bars_are_as_long_as_the_means_and_carry_their_intervals():
    _, ax = plt.subplots()
    plots.bars(ax, {"one": {"mean": 0.25, "interval": 0.05}, "other": {"mean": 0.9, "interval": 0.01}}, plots.GREEN)
    assert [bar.get_width() for bar in ax.patches] == [25, 90]
    assert [text.get_text() for text in ax.texts] == ["25.0", "90.0"]
    whiskers = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert whiskers == [pytest.approx([20, 30]), pytest.approx([89, 91])]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "other"] and ax.yaxis_inverted()
    with pytest.raises(ValueError, match="two runs at least, for an interval; 'c' has one"):
        plots.bars(ax, {"c": {"mean": 0.5, "interval": None}}, plots.GREEN)


def test_the_books_style_has_colours_that_can_be_told_apart():
    with plt.rc_context():
        plots.use_book_style()
        colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colours)) == 6 and colours[0] == plots.BLUE


def test_table():
    assert plots.table(["a", "b"], [[1, "x"]]).data == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_a_table_refuses_rows_of_another_length():
    with pytest.raises(ValueError, match="2 entries in every row"):
        plots.table(["a", "b"], [[1]])


def test_a_board_shows_every_value_given_ones_bold_wrong_ones_red_unsure_ones_pale():
    values = torch.arange(16).view(4, 4) % 4
    given, wrong = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    given[0, 0] = wrong[1, 1] = True
    sure = torch.full((4, 4), 0.5)
    fig, ax = plt.subplots()
    plots.plot_board(ax, Board(2, 2), values, given, sure, wrong)
    texts = {text.get_position(): text for text in ax.texts}
    assert len(texts) == 16 and [t.get_text() for t in ax.texts] == [str(v + 1) for v in values.flatten().tolist()]
    bold, red, pale = texts[0.5, 0.54], texts[1.5, 1.54], texts[3.5, 0.54]
    assert bold.get_fontweight() == "bold" and bold.get_alpha() == 1.0 and bold.get_color() == "black"
    assert red.get_color() == plots.RED and pale.get_color() == plots.BLUE and 0.5 < pale.get_alpha() < 0.6


def test_long_names_may_break_and_are_still_copied_whole():
    assert plots.breakable("time_to_99") == "<code>time_<wbr>to_<wbr>99</code>"
