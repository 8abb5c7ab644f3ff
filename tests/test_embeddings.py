import pytest
import torch

from noprop_helpers.embeddings import nearest_class, one_hot


def test_one_hot_rows():
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(torch.tensor([], dtype=torch.int64), 3).shape == (0, 3)


def test_nearest_class_against_cdist():
    g = torch.Generator().manual_seed(0)
    z, W = torch.randn(50, 4, generator=g), torch.randn(7, 4, generator=g)
    assert torch.equal(nearest_class(z, W), torch.cdist(z, W).argmin(1))


def test_nearest_class_of_one_hot_is_argmax():
    z = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest_class(z, torch.eye(10)), z.argmax(1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: one_hot(torch.tensor([0, 10]), 10), r"0\.\.9, got values from 0 to 10"),
        (lambda: one_hot(torch.tensor([-1]), 10), "from -1"),
        (lambda: one_hot(torch.tensor([1.0]), 10), "int64, got .* torch.float32"),
        (lambda: one_hot(torch.tensor([[1]]), 10), r"shape \[B\]"),
        (lambda: nearest_class(torch.ones(2, 3), torch.ones(4, 5)), r"\[2, 3\] and \[4, 5\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
