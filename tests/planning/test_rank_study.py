"""A rank's study: passes of any size follow from two, and nothing that is asked for twice is rehearsed twice."""

from __future__ import annotations

import copy

import pytest
import torch

from allocations import allocated
from pipeline.compose import compose
from pipeline.plan import make_planned
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.planning.memory import Way
from pipeline.planning.planned import RankStudy
from pipeline.planning.rehearsal import Rehearsal
from pipeline.training.gradient_noise import add_noise

STATED = ["samples=100000", "image_shape=[8,8,3]", "classes=10", "batch.size=64", "shuffle_samples=0"]
DEEP = ["model=bottleneck_mlp", "model.depth=3", "model.width=16", "model.dropout=0.1"]
OPTIONS = {
    "plain": [*DEEP],
    "mixed": [*DEEP, "augment=flip_crop", "augment.mixup_alpha=0.8", "objective.label_smoothing=0.3"],
    "bfloat16": [*DEEP, "trainer.precision=bf16", "trainer.device=cuda"],
    "batch norm": ["model=mlp", "model.hidden=[24,24]", "model.norm=batch", "objective=binary_cross_entropy"],
    "squared errors": ["model=mlp", "model.hidden=[24]", "model.activation=softmax", "objective=mse"],
}


def study_of(name: str, *options: str) -> RankStudy:
    return make_planned(compose("plan", PLAN_SCHEMAS, [*STATED, *OPTIONS[name], *options])).study


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way.plain, Way.ddp, Way.fsdp])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_size_that_was_not_rehearsed_holds_what_it_holds_when_it_is(name: str, way: Way) -> None:
    for recomputed in (False, True):
        known = study_of(name)
        for slots in (10, 24):
            known.memory(way=way, recomputed=recomputed, slots=slots)
        fresh = study_of(name).memory(way=way, recomputed=recomputed, slots=1000)
        assert known.memory(way=way, recomputed=recomputed, slots=1000) == fresh


def test_the_largest_batch_of_a_way_costs_no_more_than_two_rehearsals(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed = []
    rehearse = Rehearsal.rehearse

    def count(self: Rehearsal, **options: object) -> object:
        rehearsed.append((id(self), *options.values()))
        return rehearse(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Rehearsal, "rehearse", count)
    study = study_of("plain", "ranks=8")
    for num_ways, way in enumerate((Way.ddp, Way.fsdp), start=1):
        for slots in range(2, 40):
            study.memory(way=way, slots=slots)
        assert len(rehearsed) == len(set(rehearsed)) == 2 * num_ways
    assert study.flop_per_sample > 0


def test_gradients_are_there_at_the_last_evaluation_where_the_run_ends_inside_an_epoch_alone() -> None:
    options = ["batch.size=50", "trainer.max_epochs=3"]  # 2,000 steps an epoch
    whole, at_an_end, beyond, inside = (
        study_of("plain", *options, *limit).memory().moments["evaluation"]
        for limit in ([], ["trainer.max_steps=4000"], ["trainer.max_steps=6001"], ["trainer.max_steps=4001"])
    )
    assert whole == at_an_end == beyond
    assert inside == whole + study_of("plain").model_bytes.gradients


def test_noise_holds_what_a_cpu_allocates_for_it() -> None:
    study = study_of("plain", "gradient_noise.std=0.1")
    model = copy.deepcopy(study.model).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    most_bytes, left_bytes = allocated(lambda: add_noise(model, std=0.1, seed=7, step=3))
    assert (study.model_bytes.noise, 0) == (most_bytes, left_bytes)
    assert study_of("plain").model_bytes.noise == 0
