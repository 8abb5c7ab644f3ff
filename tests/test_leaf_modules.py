"""Each leaf module is one file to copy: it must import, and work, alone in an empty folder."""

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


@pytest.mark.parametrize("name", USES)
def test_works_alone(name, tmp_path):
    shutil.copy(house.PACKAGE / f"{name}.py", tmp_path / "copied.py")
    program = f"import torch, copied as m; x = {USES[name]}; assert x.isfinite().all(); print('ok', *x.shape)"
    # -I would also hide the working folder; -s -E and an empty path are what a stranger's project has.
    done = subprocess.run([sys.executable, "-s", "-E", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ok"), done.stderr
