import os
import pickle
import stat

import pytest
import torch
from torch import nn

from noprop_helpers import checkpoints


def test_round_trip_is_exact_and_leaves_nothing_else(tmp_path):
    content = {"state": nn.Linear(3, 2).state_dict(), "numbers": [1, 2.5], "text": "x", "nested": {"none": None}}
    checkpoints.save(tmp_path / "a.pt", content)
    loaded = checkpoints.load(tmp_path / "a.pt")
    assert torch.equal(loaded["state"]["weight"], content["state"]["weight"])
    assert loaded["numbers"] == [1, 2.5] and loaded["nested"] == {"none": None}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o644


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_cannot_execute_anything(tmp_path):
    """A pickle that would make a folder, in both formats a reader may meet, is refused and not run."""
    torch.save({"format": checkpoints.FORMAT, "state": Malicious(tmp_path / "made")}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "made")))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoints.load(tmp_path / name)
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # the file is as evil as it looks
    assert (tmp_path / "made").exists()


def test_an_old_file_survives_a_failed_write(tmp_path):
    checkpoints.save(tmp_path / "a.pt", {"x": 1})
    with pytest.raises(Exception):
        checkpoints.save(tmp_path / "a.pt", {"x": lambda: 0})  # cannot be stored
    assert checkpoints.load(tmp_path / "a.pt")["x"] == 1 and len(list(tmp_path.iterdir())) == 1


def test_errors(tmp_path):
    checkpoints.save(tmp_path / "good.pt", {"state": nn.Linear(3, 2).state_dict()})
    (tmp_path / "half.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:300])
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"state": {}}, tmp_path / "foreign.pt")
    for name, message in [
        ("none.pt", "no file"), ("half.pt", "not a readable"), ("text.pt", "not a readable"), ("foreign.pt", "not written by"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            checkpoints.load(tmp_path / name)
    with pytest.raises(ValueError, match="cannot write .*no/such"):
        checkpoints.save(tmp_path / "no" / "such" / "a.pt", {})
    state = nn.Linear(3, 2).state_dict()
    for module, message in [
        (nn.Linear(4, 2), r"weight has shape \[2, 3\] there, expected \[2, 4\]"),
        (nn.Linear(3, 2, bias=False), "has no bias"),
        (nn.BatchNorm1d(2), "has no weights for num_batches_tracked"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoints.load_state(module, {**state, **({"weight": state["bias"]} if "Norm" in repr(module) else {})}, "f")
