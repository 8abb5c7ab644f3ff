"""Each leaf module is one file to copy: it must import, and work, alone in an empty folder."""

import json
import shutil
import subprocess
import sys

import house
import pytest

USES = {
    "schedules": "m.posterior_coefficients(m.cosine_alpha_bar(10)).a",
    "diffusion": "m.q_sample(torch.eye(3), 0.5, torch.randn(3, 3))",
    "embeddings": "m.nearest_class(m.one_hot(torch.tensor([2, 0]), 3), torch.eye(3))",
    "blocks": "m.DenoisingMLP()(m.ConvEncoder()(torch.rand(2, 1, 28, 28)), torch.randn(2, 10))",
    "features": "m.PatchFeatures(1, num_centres=4, patch_size=3).fit(torch.rand(9, 1, 8, 8), num_patches=90)(torch.rand(2, 1, 8, 8))",
    "normal_equations": "(c := m.Moments(2, 3), c.add(torch.randn(9, 2), torch.eye(3)[torch.arange(9) % 3]), "
    "m.denoiser_at(m.ridge_regression(c.covariances(), 0.1), 0.5).from_x)[2]",
    "losses": "m.readout_loss(torch.randn(2, 3), torch.tensor([0, 1]))",
    "samplers": "m.sample_renoise(lambda t, z: z, torch.randn(2, 3), torch.tensor([1.0, 0.5]))",
    "backprop": "m.BackpropNet([torch.nn.Bilinear(2, 3, 3)], torch.eye(3), torch.nn.Bilinear(3, 3, 4)).mix",
    "checkpoints": "(m.save('f.pt', {'a': torch.ones(2)}), m.load('f.pt'))[1]['a']",
    "benchmark": "torch.tensor(m.alternate({'a': lambda: m.matmul_flops(8)()})['a'])",
    "graphs": "m.ReplayedSteps(lambda t, x, y: (t * x * y).sum(), lambda work: work, lambda work: work())(2, torch.ones(3), torch.ones(3))",
    "layerwise": "m.LayerStack([torch.nn.Bilinear(3, 2, 4) for _ in range(5)])(torch.rand(7, 3), torch.rand(5, 7, 2))",
    "augment": "m.crop_and_flip(torch.rand(2, 3, 8, 8))",
    "fast_stack": "(n := torch.nn, m.MLPStack([n.Sequential(n.Linear(5, 4), n.ReLU(), n.Linear(4, 3))]))[1]"
    "(torch.rand(7, 3), torch.rand(1, 7, 2))",
}


def test_every_leaf_is_tried():
    assert set(USES) == set(house.LEAVES)


# One interpreter for all: each in its folder, which alone is on the path beside PyTorch's, and gone from memory afterwards.
PROGRAM = """
import importlib, json, sys, traceback, torch
uses, said = json.loads(sys.argv[1]), {}
for name, use in uses.items():
    sys.path[0] = name
    sys.modules.pop("copied", None)
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        x = eval(use, {"torch": torch, "m": importlib.import_module("copied")})
        said[name] = "ok" if x.isfinite().all() else f"not finite: {x}"
    except Exception:
        said[name] = traceback.format_exc()
    if strangers := [other for other in set(sys.modules) - before if other.split(".")[0] in ("noprop_helpers", *uses)]:
        said[name] = f"imports {strangers}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each leaf says when a stranger's project, which has PyTorch and nothing of ours, uses it."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in USES:
        (folder / name).mkdir()
        shutil.copy(house.PACKAGE / f"{name}.py", folder / name / "copied.py")
    # -I would also hide the working folder; -s -E and an empty path are what a stranger's project has.
    command = [sys.executable, "-s", "-E", "-c", PROGRAM, json.dumps(USES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_works_alone(said, name):
    assert said[name] == "ok"
