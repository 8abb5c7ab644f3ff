"""Each leaf module is one file to copy: it must import, and work, alone in an empty folder."""

import ast
import doctest
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parent.parent / "noprop_helpers"
USES = {
    "schedules": "m.posterior_coefficients(m.cosine_alpha_bar(10)).a",
    "diffusion": "m.q_sample(torch.eye(3), 0.5, torch.randn(3, 3))",
    "embeddings": "m.nearest_class(m.one_hot(torch.tensor([2, 0]), 3), torch.eye(3))",
    "blocks": "m.DenoisingMLP()(m.ConvEncoder()(torch.rand(2, 1, 28, 28)), torch.randn(2, 10))",
    "features": "m.PatchFeatures.fit(torch.rand(9, 1, 8, 8), num_centres=4, patch_size=3, num_patches=90)(torch.rand(2, 1, 8, 8))",
    "losses": "m.readout_loss(torch.randn(2, 3), torch.tensor([0, 1]))",
    "samplers": "m.sample_renoise(lambda t, z: z, torch.randn(2, 3), torch.tensor([1.0, 0.5]))",
    "backprop": "m.BackpropNet([torch.nn.Bilinear(2, 3, 3)], torch.eye(3), torch.nn.Bilinear(3, 3, 4)).mix",
    "checkpoints": "(m.save('f.pt', {'a': torch.ones(2)}), m.load('f.pt'))[1]['a']",
    "benchmark": "torch.tensor(m.alternate({'a': lambda: m.matmul_flops(8)()})['a'])",
    "graphs": "m.ReplayedSteps(lambda t, x, y: (t * x * y).sum(), lambda work: work, lambda work: work())(2, torch.ones(3), torch.ones(3))",
    "layerwise": "m.LayerStack([torch.nn.Bilinear(3, 2, 4) for _ in range(5)])(torch.rand(7, 3), torch.rand(5, 7, 2))",
}


@pytest.mark.parametrize("name", USES)
def test_works_alone(name, tmp_path):
    shutil.copy(PACKAGE / f"{name}.py", tmp_path / "copied.py")
    program = f"import torch, copied as m; x = {USES[name]}; assert x.isfinite().all(); print('ok', *x.shape)"
    # -I would also hide the working folder; -s -E and an empty path are what a stranger's project has.
    done = subprocess.run([sys.executable, "-s", "-E", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ok"), done.stderr


@pytest.mark.parametrize("name", USES)
def test_imports_torch_and_the_standard_library_only(name):
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports a sibling"
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            root = module.split(".")[0]
            assert root == "torch" or root in sys.stdlib_module_names, f"{name} imports {module}"


@pytest.mark.parametrize("name", USES)
def test_examples_in_docstrings_are_true(name):
    assert doctest.testmod(importlib.import_module(f"noprop_helpers.{name}"), extraglobs={"torch": torch}).failed == 0
