"""That a step is counted as it is, and that the model takes the longest of three times."""

import pytest
import torch
from conftest import some_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from noprop_helpers.benchmark import mlp_flops
from noprop_helpers.lab import predict
from noprop_helpers.lab.bench_gpu import four_ways, task_of
from noprop_helpers.lab.predict import Counter, Device, Operation, count, predicted
from noprop_helpers.lab.recording import Recording

WAYS = list(four_ways(1))


@pytest.fixture(scope="module")
def counted(digits):
    """Each of the four ways, three blocks and a batch of 64."""
    task = task_of(some_of(digits, 64, 1), Recording(precision="float32"), 64)
    return {way: count(make, task) for way, make in four_ways(3).items()}


def flop(operations):
    return sum(operation.flop for operation in operations)


# --- Counting ---


def test_a_linear_layer_by_hand():
    """Forward: one product with a bias; four numbers a matrix element. Views, and making room, are no work."""
    B, n, m = 5, 3, 2
    layer, x = nn.Linear(n, m), torch.randn(B, n)
    with Counter() as counter, torch.no_grad():
        layer(x).view(m, B).T.unsqueeze(0)
        torch.empty(100)
    assert counter.operations == [Operation(2 * B * n * m, 4 * (m + B * n + n * m + B * m), torch.float32)]


def test_a_training_step_of_a_perceptron_has_the_operations_of_equation_12_1():
    B, widths = 16, (138, 256, 10)
    net = nn.Sequential(nn.Linear(*widths[:2]), nn.ReLU(), nn.Linear(*widths[1:]))
    with Counter() as counter:
        net(torch.randn(B, widths[0])).sum().backward()
    assert flop(counter.operations) == mlp_flops(B, widths)


def test_an_update_moves_seven_numbers_a_weight():
    """Eight would be counted if gradients were taken for changed, which the schema allows."""
    weight = nn.Parameter(torch.randn(1000))
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    with Counter() as counter:
        optimizer.step()
    step_counter, update = counter.operations  # the number of the step goes up by one, and then all weights change
    assert update.bytes - 4 == 7 * weight.nbytes and step_counter.bytes == 8


def test_bytes_of_what_is_changed_in_place_and_of_other_kinds_of_numbers():
    x = torch.ones(10, dtype=torch.bfloat16)
    with Counter() as counter:
        x.add_(1)
        x.float()
    assert [(o.bytes, o.dtype) for o in counter.operations] == [(40, torch.bfloat16), (60, torch.float32)]


def test_the_peak_is_of_what_is_held_at_once():
    with Counter() as counter:
        a = torch.ones(1000)
        b = a + 1
        del b
        c = a.view(10, 100) + 1
        del a, c
        torch.ones(10)
    assert counter.peak == 8000 and counter.held == 0


def test_memory_that_was_there_before_is_not_counted():
    old = torch.ones(1000)
    with Counter() as counter:
        _ = old.view(10, 100).T
        new = old + 1
    assert counter.peak == new.nbytes


@pytest.mark.whole
def test_no_way_is_counted_with_more_work_than_it_has(counted, digits):
    task = task_of(some_of(digits, 64, 1), Recording(precision="float32"), 64)
    for way, make in four_ways(3).items():
        step = make(task)
        with FlopCounterMode(display=False) as counter:
            step()
        assert flop(counted[way][0]) == counter.get_total_flops()


@pytest.mark.whole
def test_what_four_ways_have_to_do(counted):
    one, loop, backprop, checkpointed = (counted[way] for way in WAYS)
    assert flop(loop[0]) == 3 * flop(one[0]) and len(loop[0]) == 3 * len(one[0])
    assert flop(loop[0]) == pytest.approx(flop(backprop[0]), rel=0.001) and flop(checkpointed[0]) > 1.2 * flop(backprop[0])
    assert len(backprop[0]) < len(loop[0])  # one loss, one update
    assert one[1] < loop[1] < backprop[1] and checkpointed[1] < backprop[1]


# --- Predicting ---

SLOW = Device({torch.float32: 10.0}, 2.0, 3.0)


def test_each_operation_takes_the_longest_of_its_three_times():
    """Eq. (12.4)."""
    operations = [Operation(50, 2, torch.float32), Operation(10, 10, torch.float32), Operation(0, 1, torch.int64)]
    assert predicted(operations, SLOW) == {"arithmetic": 5.0, "memory": 5.0, "launch": 3.0}
    assert predicted(operations[1:], SLOW) == {"arithmetic": 0.0, "memory": 5.0, "launch": 3.0}
    assert sum(predicted([], SLOW).values()) == 0


def test_products_take_the_speed_of_their_kind_of_numbers():
    device = Device({torch.float32: 10.0, torch.bfloat16: 100.0}, 1e9, 0.0)
    times = [sum(predicted([Operation(1000, 1, dtype)], device).values()) for dtype in device.flops]
    assert times == [100.0, 10.0]


def test_the_h100_is_its_data_sheets():
    assert predict.H100.flops == {torch.bfloat16: 989e12, torch.float32: 67e12} and predict.H100.bandwidth == 3.35e12
    assert predict.DEVICES["graph"].flops == predict.DEVICES["eager"].flops
    assert predict.DEVICES["graph"].launch < predict.DEVICES["eager"].launch


def test_rows_are_the_counted_and_what_follows(digits, counted):
    part = predict.PREDICTED_PARTS["backprop"]
    rows = {r["name"]: r for r in part(digits, Recording(precision="float32"), layers=3, batch=64)}
    operations, peak = counted["backprop"]
    assert rows["operations_backprop"]["value"] == len(operations) and rows["memory_backprop"]["value"] == peak / 2**20
    assert rows["work_backprop"]["value"] == flop(operations) / 1e9
    assert rows["traffic_backprop"]["value"] == sum(o.bytes for o in operations) / 1e9
    for name, device in predict.DEVICES.items():
        spent = predicted(operations, device)
        assert rows[f"{name}_backprop"]["value"] == pytest.approx(1e3 * sum(spent.values()))
        assert rows[f"{name}_backprop_memory"]["value"] == 1e3 * spent["memory"]
    assert list(predict.PREDICTED_PARTS) == WAYS


def test_in_bfloat16_the_products_are_but_for_those_of_the_loss(digits):
    task = task_of(some_of(digits, 8, 1), Recording(precision="bfloat16"), 8)
    operations, _ = count(four_ways(1)["one_block"], task)
    assert flop([o for o in operations if o.dtype == torch.bfloat16]) > 0.99 * flop(operations)
