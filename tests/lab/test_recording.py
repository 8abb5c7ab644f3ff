"""Records: the whole run as data, results apart, seeds kept as soon as there is one and never mixed with others'."""

import json
import shlex

import numpy
import pytest
import torch
from conftest import some_of
from scipy import stats

from noprop_helpers import NoPropError, checkpoints
from noprop_helpers import __main__ as cli
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.images import Preparation
from noprop_helpers.lab import recording, records, structured_study, sudoku_pictures
from noprop_helpers.lab.experiments import EXPERIMENTS, Experiment
from noprop_helpers.lab.recording import STUDIES, Recording, Study, record, record_name
from noprop_helpers.runs import load_trained, measured

CHANGES = {"epochs": "2", "num_steps": "2", "hidden_dim": "16", "num_centres": "20", "learning_rate": "3e-3"}
pytestmark = pytest.mark.whole


@pytest.fixture
def data(digits):
    return some_of(digits, 150, 40)


@pytest.fixture(autouse=True)
def small(monkeypatch, data):
    """Experiments of a second, on a few digits under whatever name is asked for; and code of one commit."""
    monkeypatch.setattr(recording, "load_dataset", lambda name, root=None: data._replace(name=name))
    monkeypatch.setattr(records, "git_commit", lambda: "0123456789ab")
    add = monkeypatch.setitem
    add(EXPERIMENTS, "small", Experiment("a test", "digits", (0, 1, 2), recipe="local", changes=CHANGES, inference_runs=2))
    paper = {"epochs": "2", "num_steps": "2", "eta": "0.3", "batch_size": "50"}
    add(EXPERIMENTS, "blocks", Experiment("a test", "digits", (0,), recipe="paper-dt", changes=paper))
    flow = {"epochs": "1", "num_steps": "3"}
    add(EXPERIMENTS, "flow", Experiment("a test", "digits", (0,), recipe="paper-fm", changes=flow, steps=(1, 2, 3)))


def tiny(monkeypatch, seeds=(0, 1, 2), fail_at=None, study="tiny"):
    """An experiment that takes no time; -> the seeds that it was asked for."""
    calls = []

    def one(experiment, dataset, seed, recording, checkpoint):
        calls.append(seed)
        if seed == fail_at:
            raise KeyboardInterrupt
        return {"test_accuracy": seed / 10}, {"walk": torch.arange(len(dataset.test_labels)) * (seed + 1)}

    monkeypatch.setitem(STUDIES, study, Study(one, lambda *_: {"settings": {"learning_rate": 1e-3}}))
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("a test", "digits", seeds, study))
    return calls


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def interrupted(monkeypatch, folder, at=2):
    """The experiment "tiny", broken off at a seed; -> what is kept."""
    tiny(monkeypatch, fail_at=at)
    with pytest.raises(KeyboardInterrupt):
        record("tiny", Recording(folder))
    assert names_in(folder) == ["tiny.partial"]
    return (folder / "tiny.partial").read_bytes()


# --- What a record holds ---


def test_results_stand_apart_from_settings(tmp_path, digits):
    value = record("small", Recording(tmp_path))
    assert json.loads((tmp_path / "small.json").read_text()) == value and names_in(tmp_path) == ["small.json", "small.npz"]
    assert [run["seed"] for run in value["runs"]] == [0, 1, 2]
    assert value["run"]["model"] == {"num_steps": 2, "hidden_dim": 16, "num_centres": 20, "patch_size": 0}
    settings = value["run"]["settings"]
    assert (settings["learning_rate"], settings["epochs"], settings["one_cycle"]) == (3e-3, 2, True)
    assert "seed" not in settings and value["run"]["study"] == "run" and value["run"]["recipe"] == "local"
    said = set(settings) | set(value["run"]["model"])
    for run in value["runs"]:  # measurements, and nothing but these
        assert run.keys() == {"seed", "seconds", "results"} and not said & run["results"].keys()
    assert not said & value["summary"].keys()
    identity = value["run"]["identity"]
    assert len(identity["alpha_bar"]) == 3 and identity["objective"] == "cross_entropy" and value["run"]["parameters"] > 0


def test_the_whole_run_is_in_the_record(tmp_path):
    run = record("blocks", Recording(tmp_path))["run"]
    assert (run["model"]["eta"], run["identity"]["eta"], run["identity"]["num_steps"]) == (0.3, 0.3, 2)
    assert run["settings"]["optimizer"] == "adamw" and run["settings"]["weight_decay"] == 1e-3
    flow = record("flow", Recording(tmp_path))["run"]
    assert flow["steps"] == [1, 2, 3] and flow["model"]["embedding"] == "one_hot"
    assert flow["identity"] == {"kind": "NoPropFM", "num_classes": 10, "num_steps": 3, "sigma": 0.0}


@pytest.mark.parametrize("study", ["audit", "published_loop", "layers"])
def test_other_studies_say_what_they_do_too(study, data):
    name = {"audit": "mnist_audit", "published_loop": "mnist_published_loop", "layers": "mnist_layers"}[study]
    told = STUDIES[study].describe(EXPERIMENTS[name], data, Recording())
    assert json.loads(json.dumps(told, allow_nan=False)) and "seed" not in told["settings"]
    assert told["settings"]["learning_rate"] == (4e-3 if study == "layers" else 1e-3)
    if study == "audit":
        assert told["models"]["published"]["epochs"] == 50 and told["models"]["cosine"]["objective"] == "cross_entropy"


def test_experiments_of_one_study_differ_by_their_plan():
    study = recording._of_sudoku(lambda seed, progress, plan: ({"rate": plan.learning_rate}, {}))
    for name, rate in (("sudoku_cut", 0.01), ("sudoku_cut_slower", 0.003), ("sudoku_cut_least", 0.0003)):
        assert study.run(EXPERIMENTS[name], None, 0, Recording(), None) == ({"rate": rate}, {})
        assert study.describe(EXPERIMENTS[name], None, Recording())["settings"]["learning_rate"] == rate


def test_so_do_those_of_visual_sudoku():
    def rate_of(dataset, seed, device, progress, plan):
        return {"rate": plan.learning_rate}, {}

    study = recording._of_pictures(rate_of, sudoku_pictures.LARGE_PLAN, lambda: ([0] * 3, [0] * 2), ("symbols",))
    for name, rate in (("sudoku_pictures_large", 0.02), ("sudoku_pictures_large_slower", 0.01)):
        experiment = EXPERIMENTS[name]
        assert study.run(experiment, None, 0, Recording(), None) == ({"rate": rate}, {})
        told = study.describe(experiment, None, Recording())
        assert told["settings"]["learning_rate"] == rate and told["settings"]["rounds"] == 3
        assert told["grids"] == {"learned_from": 3, "held_out": 2}


@pytest.mark.parametrize("name", ["sudoku_wide", "sudoku_widths", "sudoku_wider", "sudoku_widest"])
def test_widths_recorded_apart_are_of_ten_layers(name, monkeypatch):
    study, made = EXPERIMENTS[name].study, []
    monkeypatch.setattr(structured_study.Bench, "chain", lambda bench, num_layers: made.append((num_layers, bench.plan)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        STUDIES[study].run(EXPERIMENTS[name], None, 0, Recording(), None)
    ((num_layers, plan),) = made
    assert (num_layers, plan.hidden_dim) == (10, structured_study.WIDE[study][0])
    assert plan.learning_rate == (0.01 if name == "sudoku_wide" else 0.003)


def test_a_record_says_on_what_machine_with_which_data_and_code(tmp_path, data):
    value = record("small", Recording(tmp_path))
    told = value["environment"]
    assert told["processor"] and isinstance(told["instruction_sets"], list) and told["cores"] >= 1
    assert told["threads"] == torch.get_num_threads() and told["device_type"] == "cpu" and told["tf32"] is None
    assert {"python", "torch", "torchvision", "torchdiffeq", "numpy", "scipy", "scikit-learn"} <= told["versions"].keys()
    assert told["versions"]["torch"] == torch.__version__
    dataset = value["dataset"]
    assert (dataset["name"], dataset["train"], dataset["test"]) == ("digits", 150, 40)
    assert dataset["checksum"] == recording.dataset_checksum(data)
    assert value["git_commit"] == "0123456789ab" and value["source"] == records.source_checksum()
    assert value["peak_memory_mib"] > 0 and value["date"] == records.today()
    assert record("small", Recording(tmp_path, commit="fedcba"))["git_commit"] == "fedcba"  # of a copy without git


def test_the_source_is_known_without_a_commit(tmp_path, monkeypatch):
    """Any line of any file of the package counts, and its name."""
    package = tmp_path / "package" / "lab"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    seen = [records.source_checksum()]
    (package / "a.py").write_text("x = 2\n")
    seen.append(records.source_checksum())
    (package / "a.py").rename(package.parent / "a.py")
    seen.append(records.source_checksum())
    (package / "b.py").touch()
    seen.append(records.source_checksum())
    (package / "notes.txt").touch()
    assert len(set(seen)) == 4 and records.source_checksum() == seen[-1] and seen[0].startswith("sha256:")


def test_the_summary_is_mean_error_and_interval(tmp_path):
    value = record("small", Recording(tmp_path))
    measured_ones = [run["results"]["test_accuracy"] for run in value["runs"]]
    told = value["summary"]["test_accuracy"]
    assert told["mean"] == pytest.approx(sum(measured_ones) / 3) and told["n"] == 3
    low, high = stats.ttest_1samp(measured_ones, 0.0).confidence_interval(0.95)
    assert (told["mean"] - told["interval"], told["mean"] + told["interval"]) == pytest.approx((low, high))
    assert told["interval"] == pytest.approx(4.3027 * told["standard_error"], rel=1e-4)  # t with two degrees of freedom
    assert value["summary"]["seconds"]["mean"] == pytest.approx(sum(run["seconds"] for run in value["runs"]) / 3)


# --- Predictions ---


@pytest.mark.parametrize("name", ["small", "flow"])
def test_predictions_give_the_accuracies_of_the_record(name, tmp_path, data):
    """With numpy alone: what was said of every test image, of every measurement and seed."""
    value = record(name, Recording(tmp_path))
    said, labels = numpy.load(tmp_path / f"{name}.npz", allow_pickle=False), data.test_labels.numpy()
    for run in value["runs"]:
        results = run["results"]
        right = {key.split("/")[1]: (said[key] == labels).mean() for key in said if key.startswith(f"{run['seed']}/")}
        walks = [right.pop(f"walk_{i}") for i in range(len(results["test_accuracy_by_run"]))]
        assert walks == pytest.approx(results["test_accuracy_by_run"])
        assert sum(walks) / len(walks) == pytest.approx(results["test_accuracy"])
        for key, accuracy in right.items():
            told = results.get(key)
            if key.startswith("steps_"):
                told = results["test_accuracy_by_steps"][key.removeprefix("steps_")]
            assert told == pytest.approx(accuracy), key
        assert len(right) == 2
    assert {key.split("/")[0] for key in said} == {"labels"} | {str(run["seed"]) for run in value["runs"]}
    assert (said["labels"] == labels).all()
    of_seeds = records.right(name, tmp_path)  # read back as who was right about what
    assert {who: len(each) for who, each in of_seeds.items()} == dict.fromkeys(of_seeds, len(value["runs"]))
    for run, walk in zip(value["runs"], of_seeds["walk_0"]):
        assert walk.double().mean().item() == pytest.approx(run["results"]["test_accuracy_by_run"][0])


def test_predictions_are_compact_and_hold_any_number_of_classes(monkeypatch, tmp_path):
    """A byte an image where that is enough, and never a class cut to fit into one."""
    tiny(monkeypatch, seeds=(0, 9))
    record("tiny", Recording(tmp_path))
    said = numpy.load(tmp_path / "tiny.npz")
    assert said["0/walk"].dtype == numpy.uint8 and said["0/walk"].tolist() == list(range(40))
    assert said["9/walk"].tolist() == [10 * i for i in range(40)]  # up to 390


# --- The command ---


@pytest.mark.slow
def test_the_command_carries_threads_and_precision_and_repeats_the_record(tmp_path, monkeypatch):
    """Typed again, in another folder: the same results, to the last digit, and the same predictions."""
    monkeypatch.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: True)
    for name, precision in (("small", "float32"), ("blocks", "bfloat16")):  # this one goes by what the processor computes
        value = record(name, Recording(tmp_path))
        words = shlex.split(value["command"])
        assert words[:4] == ["python", "-m", "noprop_helpers", "record"]
        options = cli._parser().parse_args(words[3:])
        assert (options.name, options.device, options.dataset) == (name, "cpu", None)
        assert (options.threads, options.precision) == (torch.get_num_threads(), precision)
        assert value["run"]["settings"]["precision"] == precision
        (tmp_path / "again").mkdir(exist_ok=True)
        with monkeypatch.context() as m:  # a processor that would rather compute otherwise
            m.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: False)
            assert cli.main([*words[3:], "--output", str(tmp_path / "again")]) == 0
        again = records.read_record(name, tmp_path / "again")
        assert again["run"] == value["run"] and again["command"] == value["command"]
        for run in [*value["runs"], *again["runs"]]:
            del run["seconds"], run["results"]["train_seconds"]
        assert again["runs"] == value["runs"]
        one, two = numpy.load(tmp_path / f"{name}.npz"), numpy.load(tmp_path / "again" / f"{name}.npz")
        assert all((one[key] == two[key]).all() for key in one) and set(one) == set(two)


def test_a_record_in_another_precision_says_so(tmp_path):
    value = record("small", Recording(tmp_path, precision="bfloat16"))
    assert value["run"]["settings"]["precision"] == "bfloat16" and "--precision bfloat16" in value["command"]


def test_train_and_record_train_alike(tmp_path, monkeypatch, data):
    """The same recipe, settings and seed: the same accuracy, whichever command made it."""
    value = record("blocks", Recording(tmp_path))
    monkeypatch.setattr(cli, "load_dataset", lambda *a, **k: data)
    changes = [word for name, text in EXPERIMENTS["blocks"].changes.items() for word in ("--set", f"{name}={text}")]
    assert cli.main(["train", "--preset", "paper", *changes, "--json", str(tmp_path / "train.json")]) == 0
    told = json.loads((tmp_path / "train.json").read_text())
    assert told["test_accuracy"] == value["runs"][0]["results"]["test_accuracy"]
    assert told["precision"] == value["run"]["settings"]["precision"]


def test_a_precision_that_a_study_does_not_know_is_refused(tmp_path):
    """The audit computes in float32: a command that said otherwise would be a lie."""
    for precision in ("bfloat16", "auto"):
        with pytest.raises(NoPropError, match="mnist_audit computes in float32 alone, got precision"):
            record("mnist_audit", Recording(tmp_path, precision=precision))
    assert names_in(tmp_path) == []


# --- Other data ---


def test_a_record_says_what_was_done_to_a_folder_of_images(data):
    made = data._replace(preparation=Preparation((8, 8), resized=3))
    assert recording._told(made) == recording._told(data) | {"preparation": "3 resized to 8x8, the most common size"}
    assert recording._told(data._replace(preparation=Preparation((8, 8)))) == recording._told(data)


@pytest.mark.parametrize("dataset, name", [
    (None, "tiny"), ("digits", "tiny@digits"), ("folder:/data/cifar10-jpeg/", "tiny@cifar10-jpeg"), ("folder:x", "tiny@x"),
])  # fmt: skip
def test_a_record_of_other_data_has_another_name(dataset, name, monkeypatch, tmp_path):
    tiny(monkeypatch)
    assert record_name("tiny", dataset) == name
    value = record("tiny", Recording(tmp_path), dataset)
    assert names_in(tmp_path) == [f"{name}.json", f"{name}.npz"]
    assert (f" --dataset {dataset} " in value["command"]) == (dataset is not None)


def test_a_try_on_other_data_leaves_the_record_alone(monkeypatch, tmp_path):
    tiny(monkeypatch)
    record("tiny", Recording(tmp_path))
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    record("tiny", Recording(tmp_path), "folder:mine")
    assert names_in(tmp_path) == ["tiny.json", "tiny.npz", "tiny@mine.json", "tiny@mine.npz"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


# --- Interruptions ---


def test_two_recordings_do_not_overwrite_one_another(monkeypatch, tmp_path):
    """The second asks for more seeds and ends while the first computes: what it has found stays."""
    tiny(monkeypatch)
    quick = STUDIES["tiny"].run

    def slow(experiment, dataset, seed, recording, checkpoint):
        monkeypatch.setitem(STUDIES, "tiny", STUDIES["tiny"]._replace(run=quick))
        record("tiny", Recording(tmp_path, seeds=2))
        return quick(experiment, dataset, seed, recording, checkpoint)

    monkeypatch.setitem(STUDIES, "tiny", STUDIES["tiny"]._replace(run=slow))
    with pytest.raises(CheckpointError, match="tiny.partial was written by another recording meanwhile"):
        record("tiny", Recording(tmp_path, seeds=1))
    assert len(json.loads((tmp_path / "tiny.json").read_text())["runs"]) == 2


def test_a_record_of_code_that_no_commit_names_is_not_replaced_by_a_shorter_one_either(monkeypatch, tmp_path):
    tiny(monkeypatch)
    monkeypatch.setattr(records, "git_commit", lambda: "0123456789ab-dirty")
    record("tiny", Recording(tmp_path))
    with pytest.raises(NoPropError, match="has 3 seeds, not 1"):
        record("tiny", Recording(tmp_path, seeds=1))


def test_an_interrupted_record_goes_on_where_it_stopped(monkeypatch, tmp_path):
    interrupted(monkeypatch, tmp_path)
    calls = tiny(monkeypatch)
    value = record("tiny", Recording(tmp_path))
    assert calls == [2] and [run["results"]["test_accuracy"] for run in value["runs"]] == [0.0, 0.1, 0.2]
    assert names_in(tmp_path) == ["tiny.json", "tiny.npz"]
    assert set(numpy.load(tmp_path / "tiny.npz")) == {"labels", "0/walk", "1/walk", "2/walk"}  # the earlier seeds' too


@pytest.mark.parametrize("seeds_done", [0, 1])
def test_a_recording_that_fails_leaves_what_it_finished_and_no_empty_file(seeds_done, monkeypatch, tmp_path):
    tiny(monkeypatch)
    works = STUDIES["tiny"].run

    def fails(experiment, dataset, seed, recording, checkpoint):
        if seed == seeds_done:
            raise NoPropError("these images are too small")
        return works(experiment, dataset, seed, recording, checkpoint)

    monkeypatch.setitem(STUDIES, "tiny", STUDIES["tiny"]._replace(run=fails))
    with pytest.raises(NoPropError, match="too small"):
        record("tiny", Recording(tmp_path))
    assert names_in(tmp_path) == ["tiny.partial"] * seeds_done


def test_a_record_whose_end_failed_is_written_from_what_is_kept(monkeypatch, tmp_path):
    calls = tiny(monkeypatch)
    with monkeypatch.context() as m, pytest.raises(CheckpointError):
        m.setattr(records, "write_json", lambda path, value: checkpoints.write_bytes("/no/such/folder/x", b""))
        record("tiny", Recording(tmp_path))
    assert "tiny.partial" in names_in(tmp_path)
    record("tiny", Recording(tmp_path))
    assert calls == [0, 1, 2] and names_in(tmp_path) == ["tiny.json", "tiny.npz"]


def test_the_first_seeds_alone_make_a_record_that_says_so_and_the_others_follow(monkeypatch, tmp_path):
    calls = tiny(monkeypatch)
    first = record("tiny", Recording(tmp_path, seeds=1))
    assert calls == [0] and first["summary"]["test_accuracy"]["n"] == 1 and first["command"].endswith(" --seeds 1")
    assert names_in(tmp_path) == ["tiny.json", "tiny.npz", "tiny.partial"]
    assert record("tiny", Recording(tmp_path, seeds=2))["command"].endswith(" --seeds 2")
    whole = record("tiny", Recording(tmp_path))
    assert calls == [0, 1, 2] and "--seeds" not in whole["command"]
    assert names_in(tmp_path) == ["tiny.json", "tiny.npz"]


@pytest.mark.parametrize("seeds", [0, 4])
def test_seeds_that_an_experiment_does_not_have_are_refused_before_the_work(seeds, monkeypatch, tmp_path):
    calls = tiny(monkeypatch)
    with pytest.raises(NoPropError, match=f"--seeds: tiny has 3, got {seeds}"):
        record("tiny", Recording(tmp_path, seeds=seeds))
    assert calls == [] and names_in(tmp_path) == []


def test_a_record_is_not_replaced_by_one_of_fewer_seeds(monkeypatch, tmp_path):
    calls = tiny(monkeypatch)
    whole = record("tiny", Recording(tmp_path))
    with pytest.raises(NoPropError, match="tiny.json has 3 seeds, not 1: name another folder"):
        record("tiny", Recording(tmp_path, seeds=1))
    assert calls == [0, 1, 2] and json.loads((tmp_path / "tiny.json").read_text()) == whole
    assert len(record("tiny", Recording(tmp_path, seeds=1, fresh=True))["runs"]) == 1
    for other in ("{}", "[]", '{"runs": 3}'):  # no record
        (tmp_path / "tiny.json").write_text(other)
        assert len(record("tiny", Recording(tmp_path, seeds=1))["runs"]) == 1


def changed_environment(**changes):
    before = records.environment
    return lambda device: before(device) | changes


@pytest.mark.parametrize("where, change, message", [
    ("git_commit", lambda: "another", "has git_commit 0123456789ab, expected another"),
    ("source_checksum", lambda: "sha256:another", "has source sha256:.*, expected sha256:another"),
    ("environment", changed_environment(threads=64), "has threads .*, expected 64"),
    ("environment", changed_environment(processor="Z80"), "has processor .*, expected Z80"),
    ("environment", changed_environment(versions={"torch": "9.9"}), "has torch .*, expected 9.9"),
])  # fmt: skip
def test_finished_seeds_of_other_code_or_machine_are_refused(where, change, message, monkeypatch, tmp_path):
    """Not thrown away, not mixed in: the difference is named, and what can be done."""
    before = interrupted(monkeypatch, tmp_path)
    calls = tiny(monkeypatch)
    monkeypatch.setattr(records, where, change)
    with pytest.raises(CheckpointError, match=message) as refused:
        record("tiny", Recording(tmp_path))
    assert "2 finished seeds are kept there: --fresh begins anew" in str(refused.value)
    assert calls == [] and (tmp_path / "tiny.partial").read_bytes() == before
    record("tiny", Recording(tmp_path, fresh=True))
    assert calls == [0, 1, 2] and names_in(tmp_path) == ["tiny.json", "tiny.npz"]


def test_finished_seeds_of_other_data_or_another_run_are_refused(monkeypatch, tmp_path, data):
    before = interrupted(monkeypatch, tmp_path)
    calls = tiny(monkeypatch)
    with monkeypatch.context() as m, pytest.raises(CheckpointError, match="has checksum sha256:.*, expected sha256"):
        m.setattr(recording, "load_dataset", lambda *a: data._replace(train_images=data.train_images.flip(3)))
        record("tiny", Recording(tmp_path))
    with monkeypatch.context() as m, pytest.raises(CheckpointError, match="has learning_rate 0.001, expected 0.1"):
        m.setitem(STUDIES, "tiny", STUDIES["tiny"]._replace(describe=lambda *_: {"settings": {"learning_rate": 0.1}}))
        record("tiny", Recording(tmp_path))
    assert calls == [] and (tmp_path / "tiny.partial").read_bytes() == before


def stopped_in(epoch, seed, monkeypatch, folder, name="small"):
    """The recording of an experiment, killed in an epoch of a seed, as by Ctrl-C."""
    seen = []

    def progress(work, text):
        seen.append(text)
        if text.startswith(f"epoch {epoch}") and sum(text.startswith("epoch 1") for text in seen) == seed + 1:
            raise KeyboardInterrupt
        return work

    monkeypatch.setattr(recording, "CHECKPOINT_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        record(name, Recording(folder, progress=progress))


def test_a_seed_killed_in_its_training_goes_on_from_its_checkpoint(monkeypatch, tmp_path):
    """To the numbers of a recording that nobody stopped."""
    for folder in ("straight", "cut"):
        (tmp_path / folder).mkdir()
    straight = record("small", Recording(tmp_path / "straight"))
    stopped_in(2, 1, monkeypatch, tmp_path / "cut")
    assert names_in(tmp_path / "cut") == ["small.1.checkpoint", "small.partial"]
    seen = []
    resumed = record("small", Recording(tmp_path / "cut", progress=lambda work, text: seen.append(text) or work))
    assert [text for text in seen if text.startswith("epoch")] == ["epoch 2/2", "epoch 1/2", "epoch 2/2"]
    for run in [*straight["runs"], *resumed["runs"]]:
        del run["seconds"], run["results"]["train_seconds"]
    assert resumed["runs"] == straight["runs"] and names_in(tmp_path / "cut") == ["small.json", "small.npz"]


def test_a_seed_killed_while_it_was_measured_gives_the_same_numbers(monkeypatch, tmp_path):
    """Its training is over and in its file; the model that comes back from there says what the trained one would have said."""
    (tmp_path / "cut").mkdir()
    straight = record("blocks", Recording(tmp_path))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("noprop_helpers.runs.measured", die)
        record("blocks", Recording(tmp_path / "cut"))
    assert names_in(tmp_path / "cut") == ["blocks.0.checkpoint", "blocks.partial"]
    loaded = load_trained(tmp_path / "cut" / "blocks.0.checkpoint")
    again = record("blocks", Recording(tmp_path / "cut"))
    for key in ("test_accuracy", "top_layer_accuracy", "accuracy_without_noise"):
        told = straight["runs"][0]["results"][key]
        assert again["runs"][0]["results"][key] == told
        assert measured(loaded.model, loaded.run, recording.load_dataset("digits"))[0][key] == told


def test_large_blocks_are_recorded_beside_their_opponents_and_go_on_where_they_were_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "CHECKPOINT_EVERY", 0)
    small = {"num_steps": "2", "width": "2", "epochs": "2", "batch_size": "50"}
    monkeypatch.setitem(EXPERIMENTS, "large", Experiment("a test", "digits", (0,), "blocks", "residual", small))
    (tmp_path / "cut").mkdir()
    straight = record("large", Recording(tmp_path))
    stopped_in(2, 0, monkeypatch, tmp_path / "cut", "large")
    assert names_in(tmp_path / "cut") == ["large.0.checkpoint", "large.partial"]
    again = record("large", Recording(tmp_path / "cut"))
    assert names_in(tmp_path / "cut") == ["large.json", "large.npz"]
    for view in ("one_view", "two_views"):
        assert again["runs"][0]["results"][view] == straight["runs"][0]["results"][view]
    told = records.right("large", tmp_path)
    chain = straight["summary"]["one_view"]["chain"]["accuracy"]["mean"]
    assert told["one_view/chain"].double().mean().item() == pytest.approx(chain) == straight["summary"]["test_accuracy"]["mean"]
    assert straight["run"]["settings"]["augment"] and straight["run"]["identity"]["num_steps"] == 2


def test_the_training_of_a_seed_is_not_continued_by_other_code(monkeypatch, tmp_path):
    """Also where no seed is finished yet."""
    stopped_in(2, 0, monkeypatch, tmp_path)
    monkeypatch.setattr(records, "git_commit", lambda: "another")
    with pytest.raises(CheckpointError, match="expected another; 0 finished seeds are kept there: --fresh"):
        record("small", Recording(tmp_path))
    assert names_in(tmp_path) == ["small.0.checkpoint", "small.partial"]
    seen = []
    record("small", Recording(tmp_path, fresh=True, progress=lambda work, text: seen.append(text) or work))
    assert seen.count("epoch 1/2") == 3 and names_in(tmp_path) == ["small.json", "small.npz"]


def test_a_kill_between_two_seeds_stops_nothing(monkeypatch, tmp_path):
    """After a seed is kept, before its checkpoint is removed: that is of no use to the next seed, nor in its way."""
    monkeypatch.setattr(recording, "CHECKPOINT_EVERY", 0)

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(recording, "_remove_checkpoints", die)
        record("small", Recording(tmp_path))
    assert names_in(tmp_path) == ["small.0.checkpoint", "small.partial"]
    value = record("small", Recording(tmp_path))
    assert [run["seed"] for run in value["runs"]] == [0, 1, 2] and names_in(tmp_path) == ["small.json", "small.npz"]


# --- What cannot be recorded ---


def test_an_unknown_experiment_is_refused(tmp_path):
    with pytest.raises(NoPropError, match="unknown experiment 'nope'; choose one of mnist_shared"):
        record("nope", Recording(tmp_path))


def test_a_folder_that_is_not_there_is_told_before_the_work(monkeypatch, tmp_path):
    calls = tiny(monkeypatch)
    with pytest.raises(CheckpointError, match="the folder .*no does not exist; create it first"):
        record("tiny", Recording(tmp_path / "no"))
    assert calls == []


def test_the_command_writes_the_record_and_says_so_in_one_line(monkeypatch, tmp_path, capsys):
    tiny(monkeypatch)
    copy = ["--json", str(tmp_path / "copy.json")]
    assert cli.main(["record", "tiny", "--output", str(tmp_path), *copy, "--commit", "abc"]) == 0
    out, complaints = capsys.readouterr()
    assert out.startswith("tiny: 3 seeds in ") and len(out.splitlines()) == 1 and complaints == ""
    assert (tmp_path / "copy.json").read_text() == (tmp_path / "tiny.json").read_text()
    assert records.read_record("tiny", tmp_path)["git_commit"] == "abc"
    interrupted_folder = tmp_path / "other"
    interrupted_folder.mkdir()
    interrupted(monkeypatch, interrupted_folder)
    tiny(monkeypatch)
    monkeypatch.setattr(records, "git_commit", lambda: "another")
    assert cli.main(["record", "tiny", "--output", str(interrupted_folder)]) == 2
    assert "--fresh begins anew" in capsys.readouterr().err
    assert cli.main(["record", "tiny", "--output", str(interrupted_folder), "--fresh"]) == 0


def test_a_study_that_makes_its_own_data_takes_no_other_and_runs_on_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setitem(EXPERIMENTS, "made", Experiment("a test", "", (0, 1), study="made"))
    flags = torch.tensor([True, False])
    alone = Study(lambda *_: ({"valid": 0.5}, {"top": flags}), lambda *_: {"settings": {"steps": 3}}, of_puzzles=True)
    monkeypatch.setitem(STUDIES, "made", alone)
    with pytest.raises(NoPropError, match="made makes its own data, got dataset digits"):
        record("made", Recording(tmp_path), dataset="digits")
    with pytest.raises(NoPropError, match="made computes on the CPU alone, got device cuda"):
        record("made", Recording(tmp_path, device="cuda"))
    value = record("made", Recording(tmp_path))
    assert value["dataset"] == {"name": "made from the seed"} and value["summary"]["valid"]["mean"] == 0.5
    assert records.right("made", tmp_path)["top"].tolist() == [[True, False]] * 2


def test_what_is_only_to_be_looked_at_is_kept_and_has_no_mean(monkeypatch, tmp_path):
    shown = {"walks": ["0 1", "1 0"], "boards": {"first": "123"}}
    study = Study(lambda *_: ({"valid": 1.0}, {}, shown), lambda *_: {"settings": {"steps": 3}})
    monkeypatch.setitem(STUDIES, "looks", study)
    monkeypatch.setitem(EXPERIMENTS, "looks", Experiment("a test", "", (0, 1), study="looks"))
    value = record("looks", Recording(tmp_path))
    assert [run["shown"] for run in value["runs"]] == [shown] * 2
    assert value["summary"].keys() == {"valid", "seconds"}
    assert records.read_record("looks", tmp_path)["runs"][0]["shown"] == shown


@pytest.mark.parametrize("name", ["digits_walks", "sudoku_walks"])
def test_walks_say_how_their_layers_were_trained(name, data):
    told = STUDIES[name].describe(EXPERIMENTS[name], data, Recording())
    assert json.loads(json.dumps(told, allow_nan=False)) and "seed" not in told["settings"]
    assert told["settings"]["learning_rate"] == (3e-3 if name == "digits_walks" else 1e-2)
