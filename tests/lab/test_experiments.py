"""The book's experiments, as data: every cell of the paper's table has one."""

import pytest

from noprop_helpers.lab.experiments import EXPERIMENTS, FLOW_STEPS, VARIANTS
from noprop_helpers.lab.recording import STUDIES, Recording, planned
from noprop_helpers.recipes import EMBEDDINGS


def test_every_cell_of_the_papers_table_has_a_recording():
    for dataset in ("mnist", "cifar10", "cifar100"):
        for variant in VARIANTS:
            for embedding in EMBEDDINGS if variant != "adjoint" else ("one_hot",):
                experiment = EXPERIMENTS[f"{dataset}_{variant}_{embedding}"]
                assert experiment.seeds == (0, 1, 2) and experiment.dataset == dataset and experiment.inference_runs == 5
                assert experiment.recipe == f"paper-{variant}" and experiment.changes == {"embedding": embedding}
                assert experiment.steps == (FLOW_STEPS if variant in ("ct", "fm") else ())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned_and_described(name, few_digits):
    experiment = EXPERIMENTS[name]
    assert experiment.study in STUDIES and len(set(experiment.seeds)) == len(experiment.seeds) > 0
    if experiment.study == "run":
        run = planned(experiment, few_digits, 7, Recording(precision="float32"))
        assert (run.settings.seed, run.settings.precision) == (7, "float32")
        for setting, text in experiment.changes.items():
            where = run.model if hasattr(run.model, setting) else run.settings
            assert str(getattr(where, setting)).lower() == text
