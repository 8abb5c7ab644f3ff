"""Recording: experiments and benchmarks run over their seeds or rows, and their records written as soon as there is one."""

import contextlib
import dataclasses
import functools
import io
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import numpy
import torch
from torch import Tensor

from .. import NoPropError, checkpoints
from ..benchmark import peak_memory_mib
from ..checkpoints import CheckpointError, check_writable, write_bytes
from ..data import Dataset, dataset_checksum, load_dataset
from ..passes import Progress, silent
from ..recipes import Local
from ..runs import Run, as_data, build, num_parameters, plan, run, shape_of
from ..training import Keeper, Settings
from . import half_digits, records, strings, sudoku_pictures, walks
from .audit import audit_steps, run_audit, run_published_loop
from .chain import DEPTHS, EPOCHS, NOISE_SCALES, VOTES, run_layers
from .experiments import EXPERIMENTS, Experiment
from .residual_blocks import run_blocks
from .structured_study import (
    AT_THE_LARGEST, HELD_OUT, LARGER, WIDE, Plan, run_sudoku, run_sudoku_again, run_sudoku_cut, run_sudoku_deeper, run_sudoku_few,
    run_sudoku_rates, run_sudoku_rivals, run_sudoku_sizes, split,
)  # fmt: skip
from .tasks import RATES

CHECKPOINT_EVERY = 60.0  # seconds; ten blocks with their optimizer states fill 240 MB, too much to write after every epoch


class Recording(NamedTuple):
    """Where and how a recording runs: the same for experiments and benchmarks.

    ``precision``: None leaves the experiment's own. ``commit``: of the code, where it is not a checkout. ``seeds``: how many of
    an experiment's, from its first; None for all.
    """

    folder: Path = records.FOLDER
    device: str = "cpu"
    precision: str | None = None
    commit: str | None = None
    fresh: bool = False
    seeds: int | None = None
    progress: Progress = silent

    def command(self, *words: str) -> str:
        """The command that repeats it, threads and precision included."""
        options = ["--device", self.device, "--threads", str(torch.get_num_threads())]
        options += ["--precision", self.precision] if self.precision else []
        return " ".join(["python -m noprop_helpers", *words, *options])

    def origin(self, dataset: Dataset | None) -> dict:
        """What all parts of one record must share: data, hardware, versions, code."""
        return {
            "dataset": _told(dataset),
            "environment": records.environment(self.device),
            "git_commit": self.commit or records.git_commit(),
            "source": records.source_checksum(),
        }


def _told(dataset: Dataset | None) -> dict:
    """A data set as a record names it: checksum, sizes and, where it was prepared, how."""
    if dataset is None:
        return {"name": "made from the seed"}
    sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
    done = {"preparation": dataset.prepared} if dataset.prepared else {}
    return {"name": dataset.name, "checksum": dataset_checksum(dataset), **sizes} | done


# --- Studies ----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What one seed of a study comes to: its numbers, of which the record holds the means; the classes that it said of the test
    images; and what is only to be looked at, as plain data."""

    results: dict
    said: dict[str, Tensor]
    shown: dict = {}


class Study(NamedTuple):
    """What one seed of an experiment does: ``run(experiment, dataset, seed, recording, checkpoint)`` -> the fields of an
    ``Outcome``, and ``describe(experiment, dataset, recording)`` -> the whole of it as plain data. ``of_puzzles``: what it
    keeps is whether puzzles are solved, not the classes of the test images; it computes on the CPU alone."""

    run: Callable[..., tuple]
    describe: Callable[..., dict]
    of_puzzles: bool = False


def planned(experiment: Experiment, dataset: Dataset, seed: int, recording: Recording) -> Run:
    """The run of one seed of an experiment that has a recipe."""
    changes = experiment.changes | {"seed": str(seed)}
    changes |= {"precision": recording.precision} if recording.precision else {}
    how = {"inference_runs": experiment.inference_runs, "steps": experiment.steps}
    result = dataclasses.replace(plan(dataset, experiment.recipe, changes), **how)
    return dataclasses.replace(result, settings=result.settings.on(recording.device))


def _run(experiment: Experiment, dataset: Dataset, seed: int, recording: Recording, checkpoint: Path):
    """One seed of an experiment: -> (results, predictions)."""
    trained = run(
        planned(experiment, dataset, seed, recording), dataset, device=recording.device, checkpoint=checkpoint,
        resume=checkpoint.exists(), checkpoint_every=CHECKPOINT_EVERY, progress=recording.progress,
    )  # fmt: skip
    return trained.results, trained.predictions


def _blocks(experiment: Experiment, dataset: Dataset, seed: int, recording: Recording, checkpoint: Path):
    keeper = Keeper(checkpoint, resume=checkpoint.exists(), every=CHECKPOINT_EVERY)
    return run_blocks(planned(experiment, dataset, seed, recording), dataset, recording.device, keeper, recording.progress)


def _describe_run(experiment: Experiment, dataset: Dataset, recording: Recording) -> dict:
    """The run as data, without its seed and its data set."""
    one = planned(experiment, dataset, experiment.seeds[0], recording)
    model = build(one, shape_of(dataset))
    data = as_data(one) | {"identity": model.identity(), "parameters": num_parameters(model)}
    del data["settings"]["seed"], data["dataset"]  # they stand beside
    return data


def _alone(study: Callable) -> Callable:
    """A study that needs no more than data, seed and device."""
    return lambda experiment, dataset, seed, recording, checkpoint: study(
        dataset, seed, recording.device, recording.progress
    )


def _describe_audit(experiment: Experiment, dataset: Dataset, recording: Recording) -> dict:
    steps = audit_steps(dataset.train_images[:1000], len(dataset.class_names))
    models = {step.key: {"title": step.title, "epochs": step.epochs, **step.model.identity()} for step in steps}
    return {"settings": _common(Settings()), "models": models}


def _describe_layers(experiment: Experiment, dataset: Dataset, recording: Recording) -> dict:
    recipe = Local()
    settings = dataclasses.replace(recipe.settings(shape_of(dataset)), epochs=EPOCHS)
    model = {"recipe": "local", "model": dataclasses.asdict(recipe)}
    return model | {"settings": _common(settings), "depths": DEPTHS, "votes": VOTES, "noise_scales": NOISE_SCALES}


def _describe_walks(*_) -> dict:
    told = {"num_steps": walks.T, "blend": {"classes": walks.BLEND, "share": walks.SHARE, "walks": walks.NUM_BLENDS}}
    return {"settings": _common(walks.SETTINGS)} | told


def _describe_sudoku(experiment: Experiment, *_) -> dict:
    grids = dict(zip(("learned_from", "held_out"), map(len, split())))
    return {"settings": dataclasses.asdict(_plan(experiment)), "held_out_classes": HELD_OUT, "grids_in_order": grids}


def _plan(experiment: Experiment, plan: Plan = Plan()) -> Plan:
    """The plan of a study of Sudoku, with the experiment's changes."""
    return dataclasses.replace(plan, **{name: type(getattr(plan, name))(text) for name, text in experiment.changes.items()})


def _of_sudoku(study: Callable) -> Study:
    """A study that needs no more than a seed and a plan."""
    return Study(
        lambda experiment, dataset, seed, recording, checkpoint: study(seed, recording.progress, _plan(experiment)),
        _describe_sudoku,
        of_puzzles=True,
    )


def _of_pictures(study: Callable, plan: Plan, grids: Callable[[], tuple[Tensor, Tensor]], ways: tuple[str, ...]) -> Study:
    """A study of visual Sudoku: of images, a seed and a plan."""

    def describe(experiment: Experiment, *_) -> dict:
        seen = {"ways": ways, "training_images": sudoku_pictures.NUM_IMAGES, "features": sudoku_pictures.NUM_FEATURES}
        counts = dict(zip(("learned_from", "held_out"), map(len, grids())))
        return {"settings": dataclasses.asdict(_plan(experiment, plan)), "grids": counts, "pictures": seen}

    return Study(
        lambda experiment, dataset, seed, recording, checkpoint: study(
            dataset, seed, recording.device, recording.progress, _plan(experiment, plan)
        ),
        describe,
        of_puzzles=True,
    )


def _describe_strings(*_) -> dict:
    told = {"digits": strings.LENGTH, "modulus": strings.MODULUS, "strings": len(strings.words()), "shown": strings.SHOWN}
    walked = {"walks": strings.WALKS, "problems": strings.ESTIMATED}
    return {"settings": dataclasses.asdict(strings.PLAN), "code": told, "likelihood": walked}


def _describe_strings_rates(*_) -> dict:
    return _describe_strings_rates_larger() | {"rates": RATES, "lengths": strings.LENGTHS}


def _describe_strings_rates_larger(*_) -> dict:
    told = _describe_strings()
    return {"settings": told["settings"], "code": told["code"], "rates": strings.LARGER}


def _describe_half_digits(*_) -> dict:
    reading = {"white": half_digits.WHITE, "neighbours": half_digits.NEIGHBOURS, "reader": half_digits.READING._asdict()}
    return {"settings": dataclasses.asdict(half_digits.PLAN)} | reading


def _describe_half_digits_rates(*_) -> dict:
    return _describe_half_digits() | {"rates": RATES}


def _common(settings: Settings) -> dict:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "seed"}


STUDIES = {
    "run": Study(_run, _describe_run),
    "blocks": Study(_blocks, _describe_run),
    "audit": Study(_alone(run_audit), _describe_audit),
    "published_loop": Study(_alone(run_published_loop), lambda *_: {"settings": _common(Settings(epochs=2))}),
    "layers": Study(_alone(run_layers), _describe_layers),
    "sudoku": _of_sudoku(run_sudoku),
    "sudoku_rivals": _of_sudoku(run_sudoku_rivals),
    "sudoku_cut": _of_sudoku(run_sudoku_cut),
    "sudoku_rates": _of_sudoku(run_sudoku_rates),
    "sudoku_deeper": _of_sudoku(run_sudoku_deeper),
    "sudoku_few": _of_sudoku(run_sudoku_few),
    "sudoku_again": _of_sudoku(run_sudoku_again),
    "sudoku_rates_larger": _of_sudoku(functools.partial(run_sudoku_rates, rates=LARGER, names=AT_THE_LARGEST)),
    "sudoku_sizes": _of_sudoku(run_sudoku_sizes),
    **{
        name: _of_sudoku(functools.partial(run_sudoku_sizes, sizes={"by_width": widths})) for name, widths in WIDE.items()
    },
    "sudoku_pictures": _of_pictures(
        sudoku_pictures.run_sudoku_pictures, sudoku_pictures.PLAN, split, sudoku_pictures.WAYS
    ),
    "sudoku_pictures_large": _of_pictures(
        sudoku_pictures.run_sudoku_pictures_large, sudoku_pictures.LARGE_PLAN, sudoku_pictures.large_grids,
        sudoku_pictures.LARGE_WAYS,
    ),
    "strings": Study(_alone(strings.run_strings), _describe_strings, of_puzzles=True),
    "half_digits": Study(_alone(half_digits.run_half_digits), _describe_half_digits, of_puzzles=True),
    "strings_rates": Study(_alone(strings.run_strings_rates), _describe_strings_rates, of_puzzles=True),
    "strings_rates_larger": Study(
        _alone(strings.run_strings_rates_larger), _describe_strings_rates_larger, of_puzzles=True
    ),
    "half_digits_rates": Study(_alone(half_digits.run_half_digits_rates), _describe_half_digits_rates, of_puzzles=True),
    "digits_walks": Study(_alone(walks.run_digits), _describe_walks),
    "sudoku_walks": _of_sudoku(walks.run_sudokus),
}


# --- Records of experiments -------------------------------------------------------------------------------------------


def record(
    name: str,
    recording: Recording = Recording(),
    dataset: str | None = None,
    data_root: str | None = None,
    experiments: dict[str, Experiment] = EXPERIMENTS,
) -> dict:
    """Run an experiment over its seeds and write ``folder/NAME.json`` and ``folder/NAME.npz``.

    ``dataset`` replaces the experiment's own; the record is then called ``NAME@DATASET``. Each finished seed is kept in
    ``NAME.partial``, long training in ``NAME.SEED.checkpoint``: an interrupted recording goes on where it stopped, and one
    that was asked for its first ``recording.seeds`` alone goes on from these. Raises CheckpointError where what is kept is of
    another code, machine or data, unless ``fresh`` says to begin anew, or where another recording writes meanwhile, and
    NoPropError for a precision that the experiment does not know, or more seeds than it has.
    """
    if name not in experiments:
        raise NoPropError(f"unknown experiment {name!r}; choose one of {', '.join(experiments)}")
    experiment = experiments[name]
    target = Path(recording.folder) / f"{record_name(name, dataset)}.json"
    wanted = _wanted(name, experiment, recording, target)
    check_writable(target)
    if dataset is not None and not experiment.dataset:
        raise NoPropError(f"{name} makes its own data, got dataset {dataset}")
    study = STUDIES[experiment.study]
    if study.of_puzzles and recording.device != "cpu":
        raise NoPropError(f"{name} computes on the CPU alone, got device {recording.device}")
    data = load_dataset(experiment.dataset if dataset is None else dataset, data_root) if experiment.dataset else None
    recording = _settled(name, experiment, data, recording)
    words = ["record", name, *(["--dataset", dataset] if dataset else [])]
    origin = {"experiment": name, "description": experiment.description, "command": recording.command(*words)}
    origin |= {"run": {"study": experiment.study} | study.describe(experiment, data, recording)}
    mark = checkpoints.mark(partial := target.with_suffix(".partial"))
    done = _finished(partial, _plain(origin | recording.origin(data)), recording.fresh)
    if recording.fresh:
        _remove_checkpoints(target, experiment)
    if data is not None and not study.of_puzzles:
        done["said"]["labels"] = data.test_labels  # so that the file of predictions speaks for itself
    mark = _keep(partial, done, mark)  # also before the first seed: its checkpoint is of this origin
    for seed in experiment.seeds[len(done["runs"]) : wanted]:
        start, checkpoint = time.perf_counter(), target.with_suffix(f".{seed}.checkpoint")
        with _nothing_empty_left(target, done, checkpoint):
            outcome = Outcome(*study.run(experiment, data, seed, recording, checkpoint))
        run = {"seed": seed, "seconds": time.perf_counter() - start, "results": _plain(outcome.results)}
        done["runs"].append(run | ({"shown": _plain(outcome.shown)} if outcome.shown else {}))
        done["said"] |= {f"{seed}/{key}": classes for key, classes in outcome.said.items()}
        mark = _keep(partial, done, mark)
        _remove_checkpoints(target, experiment)
    return _write(target, done, recording, missing=len(done["runs"]) < len(experiment.seeds))


def _keep(partial: Path, done: dict, mark: tuple | None) -> tuple | None:
    """Write the finished seeds, if the file is as it was: -> what it is now marked by."""
    if checkpoints.mark(partial) != mark:
        raise CheckpointError(f"{partial} was written by another recording meanwhile: let that one end, or name another folder")
    checkpoints.save(partial, done)
    return checkpoints.mark(partial)


def _wanted(name: str, experiment: Experiment, recording: Recording, target: Path) -> int:
    """How many of the experiment's seeds the recording asks for: not fewer than there are in a record, unless ``fresh``."""
    wanted = len(experiment.seeds) if recording.seeds is None else recording.seeds
    if not 1 <= wanted <= len(experiment.seeds):
        raise NoPropError(f"--seeds: {name} has {len(experiment.seeds)}, got {wanted}")
    if target.is_file() and recording.seeds is not None and not recording.fresh:
        old = records.read_json(target)
        runs = old.get("runs") if isinstance(old, dict) else None
        there = len(runs) if isinstance(runs, list) else 0
        if there > wanted:
            raise NoPropError(f"{target} has {there} seeds, not {wanted}: name another folder with --output, or --fresh")
    return wanted


@contextlib.contextmanager
def _nothing_empty_left(target: Path, done: dict, checkpoint: Path) -> Iterator[None]:
    """After a seed that failed: a file that holds neither seeds nor a part of one is no file to leave behind."""
    try:
        yield
    except Exception:
        if not done["runs"] and not checkpoint.exists():
            target.with_suffix(".partial").unlink(missing_ok=True)
        raise


def _remove_checkpoints(target: Path, experiment: Experiment) -> None:
    """Of every seed: whoever was killed between two steps may have left one of a seed that is finished."""
    for seed in experiment.seeds:
        target.with_suffix(f".{seed}.checkpoint").unlink(missing_ok=True)


def _settled(name: str, experiment: Experiment, dataset: Dataset, recording: Recording) -> Recording:
    """With the precision that the experiment comes to on this device: the command says it, and so repeats it elsewhere."""
    if experiment.recipe:
        precision = planned(experiment, dataset, experiment.seeds[0], recording).settings.precision
        return recording._replace(precision=precision)
    if recording.precision not in (None, "float32"):
        raise NoPropError(f"{name} computes in float32 alone, got precision {recording.precision}")
    return recording._replace(precision="float32")


def record_name(name: str, dataset: str | None) -> str:
    """A record's name: of other data than the experiment's own it says so."""
    return name if dataset is None else f"{name}@{dataset.removeprefix('folder:').rstrip('/').split('/')[-1]}"


def _finished(partial: Path, origin: dict, fresh: bool) -> dict:
    """The seeds that an interrupted recording finished, if they are of the same origin."""
    empty = {"origin": origin, "runs": [], "said": {}}
    if fresh or not partial.exists():
        return empty
    done = checkpoints.load(partial)
    checkpoints.expect(done, {"origin": dict, "runs": list, "said": dict}, partial)
    try:
        checkpoints.check_same(done["origin"], origin, partial)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {len(done['runs'])} finished seeds are kept there: --fresh begins anew") from None
    return done


def _write(target: Path, done: dict, recording: Recording, missing: bool) -> dict:
    """The record of all seeds done so far, written; what the model said goes beside it. Where seeds are missing the record's
    command says so, and what is kept stays, for them to go on from."""
    runs, peak = done["runs"], peak_memory_mib(recording.device)
    value = {
        **done["origin"],
        "command": done["origin"]["command"] + (f" --seeds {len(runs)}" if missing else ""),
        "date": records.today(),
        "peak_memory_mib": peak and round(peak, 1),
        "runs": runs,
        "summary": records.summarize([one["results"] | {"seconds": one["seconds"]} for one in runs]),
    }
    if done["said"]:
        buffer = io.BytesIO()
        numpy.savez_compressed(buffer, **{key: _compact(classes) for key, classes in done["said"].items()})
        write_bytes(target.with_suffix(".npz"), buffer.getvalue())
    records.write_json(target, value)
    if not missing:
        target.with_suffix(".partial").unlink(missing_ok=True)
    return value


def _compact(classes: Tensor) -> numpy.ndarray:
    """Classes [N] in as few bytes as they need."""
    return classes.numpy().astype(numpy.min_scalar_type(int(classes.max())))


def _plain(value):
    """The same with lists for tuples, as it will be read back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
