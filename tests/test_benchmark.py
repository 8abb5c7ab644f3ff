import json
import os
import types

import pytest
import torch

from noprop_helpers import benchmark

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")


# --- Timing ---


def test_runs_take_turns_and_warm_up():
    calls = []
    times = benchmark.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert "".join(calls) == "ab" * 5
    assert [len(values) for values in times.values()] == [3, 3] and min(min(values) for values in times.values()) >= 0
    with pytest.raises(ValueError, match="at least one run"):
        benchmark.alternate({})


def test_a_row_compares_pair_by_pair():
    row = benchmark.row("step", [1.0, 4.0, 3.0], "s", "loop", [2.0, 4.0, 12.0])
    assert row == {
        "name": "step",
        "value": 3.0,
        "unit": "s",
        "baseline": "loop",
        "ratio": 0.5,
        "ratio_min": 0.25,
        "ratio_max": 1.0,
    }
    alone = benchmark.row("memory", [7.0], "MiB")
    assert alone["value"] == 7.0 and alone["baseline"] is alone["ratio"] is alone["ratio_min"] is None
    with pytest.raises(ValueError):
        benchmark.row("step", [1.0], "s", "loop", [1.0, 2.0])


def test_the_table_shows_every_row_and_says_what_was_not_reached():
    rows = [benchmark.row("fast", [1.0], "s", "slow", [2.0]), benchmark.row("far", [1.0], "s") | {"value": None}]
    lines = benchmark.table(rows).splitlines()
    assert len(lines) == 3 and "0.5" in lines[1] and lines[1].endswith("slow") and "not reached" in lines[2]


def test_mlp_flops_count_every_product_of_one_step():
    """Eq. (12.1), against PyTorch's own counter, for the published notebook's layer."""
    from torch.utils.flop_counter import FlopCounterMode

    B, widths = 16, (138, 256, 10)
    net = torch.nn.Sequential(torch.nn.Linear(*widths[:2]), torch.nn.ReLU(), torch.nn.Linear(*widths[1:]))
    for input_gradient in (False, True):
        x = torch.randn(B, widths[0], requires_grad=input_gradient)
        with FlopCounterMode(display=False) as counter:
            net(x).sum().backward()
        assert benchmark.mlp_flops(B, widths, input_gradient) == counter.get_total_flops()


def test_matrix_products_are_counted_and_timed(monkeypatch):
    monkeypatch.setattr(benchmark, "seconds", lambda run, device: run() is None or 0.5)
    assert benchmark.matmul_flops(64)() == 2 * 64**3 / 0.5


def test_memory_is_counted_in_mib():
    """As much as this process has held at its peak: more than Python and PyTorch alone, and at least what we take now."""
    before = benchmark.peak_memory_mib()
    held = torch.ones(300 * 2**18)  # 300 MiB
    assert 50 < before < 100_000 and benchmark.peak_memory_mib() >= 300 and held.sum() > 0


# --- The machine ---

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu avx2 avx512f avx512_bf16 somethingelse

processor\t: 1
model name\t: another one
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16 sve\nCPU implementer\t: 0x41\n"


def processor_of(text, monkeypatch):
    """What ``processor`` makes of a /proc/cpuinfo, or of none; around its cache."""

    def read_text(**letters):
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(benchmark, "Path", lambda name: types.SimpleNamespace(read_text=read_text))
    return benchmark.processor.__wrapped__()


def test_the_processor_is_told_by_its_exact_model(monkeypatch):
    """A virtual machine calls a whole line of processors by one name: family, model and stepping tell them apart."""
    model, flags = processor_of(X86, monkeypatch)
    assert model == "AMD EPYC (family 25, model 17, stepping 1)"
    assert {"avx2", "avx512_bf16"} <= flags
    model, flags = processor_of(ARM, monkeypatch)
    assert model and "family" not in model and {"asimd", "bf16"} <= flags
    model, flags = processor_of(None, monkeypatch)  # no Linux
    assert model and flags == frozenset()


@pytest.mark.parametrize("flags, computes", [
    ({"avx2", "avx512f"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"asimd", "bf16"}, True), (set(), False),
    ({"avx512_bf16_vnni"}, False),
])  # fmt: skip
def test_a_cpu_computes_bfloat16_where_it_has_instructions_for_it(flags, computes, monkeypatch):
    monkeypatch.setattr(benchmark, "processor", lambda: ("a processor", frozenset(flags)))
    assert benchmark.computes_bfloat16("cpu") == benchmark.computes_bfloat16(torch.device("cpu")) == computes


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_that_emulates_bfloat16_does_not_compute_it(supported, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.append(options) or supported)
    assert benchmark.computes_bfloat16("cuda") == supported
    assert asked == [{"including_emulation": False}]


def test_a_machine_is_plain_data():
    told = benchmark.machine("cpu", ("torch", "no-such-package"))
    assert json.loads(json.dumps(told)) == told
    assert told["device"] == told["processor"] == benchmark.processor()[0] and told["device_type"] == "cpu"
    assert (told["cores"], told["threads"], told["tf32"]) == (os.cpu_count(), torch.get_num_threads(), None)
    assert set(told["instruction_sets"]) == set(benchmark.INSTRUCTION_SETS) & benchmark.processor()[1]
    assert told["versions"]["torch"] == torch.__version__ and told["versions"]["no-such-package"] is None
    assert set(told["versions"]) == {"python", "torch", "no-such-package"}


@needs_a_gpu
def test_a_machine_with_a_gpu_tells_its_software_too():
    told = benchmark.machine("cuda")
    assert told["device"] == torch.cuda.get_device_name() and told["device_type"] == "cuda"
    assert told["versions"]["cuda"] and told["versions"]["cudnn"] and set(told["tf32"]) == {"products", "convolutions"}
    assert benchmark.peak_memory_mib("cuda") == torch.cuda.max_memory_allocated() / 2**20
