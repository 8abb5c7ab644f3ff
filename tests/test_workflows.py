"""What runs on other machines: workflows that may do little and run what was pinned, and requirements with checksums."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import covered
import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
NOT_HASHED = {"torch", "torchvision"}  # many builds of one version, some of them local: see CONTRIBUTING.md


def jobs_of(path):
    return yaml.safe_load(path.read_text())["jobs"]


def locked(text):
    """Requirements of a lock file: {"numpy==2.2.6 ; python_full_version < '3.11'": its checksums}."""
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line and not line.startswith("#")]
    return {line.split("--hash")[0].strip(): re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line) for line in lines}


@each_workflow
def test_a_workflow_may_do_nothing_and_a_job_what_it_says(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    written = {name: [p for p, level in job.get("permissions", {}).items() if level == "write"] for name, job in jobs_of(path).items()}
    assert {name: what for name, what in written.items() if what} == (
        {
            "book.yml": {"colab": ["contents"], "publish": ["pages", "id-token"]}, "weekly.yml": {"report": ["issues"]},
            "nightly.yml": {},
        }[path.name]
    )


@each_workflow
def test_actions_are_pinned_by_commit_with_their_tag_beside(path):
    used = re.findall(r"uses: *(.*)", path.read_text())
    for action in used:
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@each_workflow
def test_no_job_keeps_credentials_and_none_pastes_text_of_others_into_a_shell(path):
    for job in jobs_of(path).values():
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", ""), step


def test_what_is_published_is_the_archive_that_was_opened_and_checked():
    steps = jobs_of(ROOT / ".github/workflows/book.yml")["test"]["steps"]
    (checked,) = [i for i, step in enumerate(steps) if "tests/archive.py" in step.get("run", "")]
    (kept,) = [i for i, step in enumerate(steps) if "upload-artifact" in step.get("uses", "")]
    (published,) = [i for i, step in enumerate(steps) if "upload-pages-artifact" in step.get("uses", "")]
    *_, archive, opened = steps[checked]["run"].split()
    assert checked < kept < published
    assert (steps[kept]["with"]["path"], steps[published]["with"]["path"]) == (archive, opened)


def test_every_python_that_the_package_allows_is_tried():
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    tried = jobs_of(ROOT / ".github/workflows/book.yml")["python"]["strategy"]["matrix"]["python"]
    assert tried == [f"3.{minor}" for minor in range(int(oldest), 15)]


def test_variables_that_workflows_ask_for_are_explained():
    for path in WORKFLOWS:
        for name in set(re.findall(r"\bvars\.(\w+)", path.read_text())):
            assert f"`{name}`" in (ROOT / "CONTRIBUTING.md").read_text(), name


def test_scripts_that_workflows_run_are_there():
    for path in WORKFLOWS:
        for name in set(re.findall(r"(?:tests|\.ci)/[\w.]+", path.read_text())):
            assert (ROOT / name).is_file(), f"{path.name} runs {name}"


def test_every_requirement_but_torch_has_its_checksums():
    plain, hashed = (locked((ROOT / name).read_text()) for name in ("requirements.txt", "requirements-hashed.txt"))
    assert plain.keys() - hashed.keys() == {line for line in plain if line.split("==")[0] in NOT_HASHED}
    assert hashed.keys() <= plain.keys() and all(hashed.values())


def test_a_requirement_without_its_checksum_would_be_seen():
    found = locked("# a comment\na==1 \\\n    --hash=sha256:" + 64 * "0" + "\nb==2 ; python_version < '3.11'\n")
    assert found == {"a==1": [64 * "0"], "b==2 ; python_version < '3.11'": []}


@pytest.mark.parametrize("lines, branches, code", [(97, 92, 0), (96, 92, 1), (97, 91, 1)])
def test_too_little_coverage_is_red(lines, branches, code, monkeypatch):
    totals = {"covered_lines": lines, "num_statements": 100, "covered_branches": branches, "num_branches": 100}
    said = json.dumps({"files": {}, "totals": totals})
    monkeypatch.setattr(covered.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert covered.main() == code
