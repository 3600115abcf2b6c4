"""What the cockpit says of a batch, and what it takes from the planner and the network."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.track.cockpit import (
    BatchFacts,
    Bound,
    Cockpit,
    batch_advice,
    best_images,
    cockpit_table,
    images_ratio,
    rounded,
    steps_ratio,
)
from pipeline.track.media import read_media
from pipeline.track.metric_log import MetricLog
from pipeline.training.noise_scale import NoiseScale

NO_BOUND = Bound(images=None, source="not known")
KNOWN = NoiseScale(trace=3600.0, signal_sq=2.0, images=1800.0, low=1200.0, high=2900.0, measurements=40)
OPEN = replace(KNOWN, signal_sq=0.1, images=None, high=math.inf)


def facts(images: int, *, memory: float | None = None, network: float | None = None, num_ranks: int = 1) -> BatchFacts:
    return BatchFacts(
        images=images,
        num_ranks=num_ranks,
        memory=Bound(images=memory, source="planned"),
        network=Bound(images=network, source="measured"),
    )


def test_steps_and_images_to_a_loss_are_those_of_the_paper() -> None:
    """Section 2.3: (S / S_min - 1) (E / E_min - 1) = 1, and at the noise scale both are 2."""
    least = 1e-9
    for images in (30, 1800, 20_000):
        steps = steps_ratio(images, 1 / least, noise_images=1800)
        samples = images_ratio(images, least, noise_images=1800)
        assert (steps - 1) * (samples - 1) == pytest.approx(1, rel=1e-4)
        # Images are steps times the batch.
        assert images_ratio(images, 77, noise_images=1800) == pytest.approx(
            steps_ratio(images, 77, noise_images=1800) * images / 77
        )
    assert steps_ratio(1800, 1 / least, noise_images=1800) == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize(
    ("images", "noise", "said"),
    [
        (
            128,
            KNOWN,
            "The noise scale is about 1,800 images (1,200 to 2,900). Your batch of 128 is well below it: a batch of"
            " about 1,800 would take 7.5 times fewer steps for 1.9 times the images; raise the learning rate with it.",
        ),
        (
            16_384,
            KNOWN,
            "The noise scale is about 1,800 images (1,200 to 2,900). Your batch of 16,384 is well above it: a batch of"
            " about 1,800 would take 5.1 times fewer images for 1.8 times the steps; lower the learning rate with it.",
        ),
        (
            1024,
            KNOWN,
            "The noise scale is about 1,800 images (1,200 to 2,900). Your batch of 1,024 is near it, a good trade of"
            " steps and images.",
        ),
        (
            128,
            OPEN,
            "The noise scale is over 1,200 images, how far over cannot be told yet. Your batch of 128 is well below it:"
            " a batch of about 1,200 would take at least 5.2 times fewer steps for at most 1.8 times the images; raise"
            " the learning rate with it.",
        ),
        (
            4096,
            OPEN,
            "The noise scale is over 1,200 images, how far over cannot be told yet. Whether another batch would be"
            " better cannot be told either.",
        ),
        (
            128,
            replace(OPEN, low=0.0),
            "The noise scale cannot be told yet from 40 measurements. Whether another batch would be better cannot be"
            " told either.",
        ),
    ],
)
def test_the_advice_says_where_the_batch_stands_and_what_another_would_change(
    images: int, noise: NoiseScale, said: str
) -> None:
    assert batch_advice(facts(images), noise) == said


def test_a_wide_band_is_called_one() -> None:
    wide = replace(KNOWN, low=300.0, high=9000.0)
    assert batch_advice(facts(400), wide).endswith("Your batch of 400 is near it, as far as can be told yet.")


def test_of_images_that_are_all_alike_a_batch_of_one_is_best() -> None:
    """Their gradients have no spread, and rounding may put it on either side of 0."""
    alike = replace(KNOWN, images=0.0, low=0.0, high=0.0)
    assert best_images(facts(12), alike)[0] == 1
    assert "well above it: a batch of about 1 would take" in batch_advice(facts(12), alike)


def test_memory_and_network_speak_only_where_they_stand_in_the_way() -> None:
    inside = batch_advice(facts(128, memory=9000, network=64, num_ranks=8), KNOWN)
    assert "emory" not in inside
    assert "exchange" not in inside
    small = batch_advice(facts(128, memory=640), KNOWN)
    assert small.endswith("Memory holds about 640 in one pass; more are accumulated (batch.micro_size).")
    slow = batch_advice(facts(128, network=40_000, num_ranks=8), KNOWN)
    assert slow.endswith(
        "Below about 40,000, these 8 ranks exchange gradients for longer than they compute: fewer ranks would be"
        " nearly as fast."
    )


def test_the_best_batch_is_the_noise_scale_unless_yours_is_near() -> None:
    assert best_images(facts(128), KNOWN)[0] == 1800
    assert best_images(facts(100_000), KNOWN)[0] == 1800
    assert best_images(facts(1000), KNOWN)[0] == 1000
    assert best_images(facts(128), OPEN)[0] == 1200
    assert best_images(facts(5000), OPEN)[0] is None
    assert best_images(facts(128), None)[0] is None


def test_the_table_has_every_number_with_its_source_and_no_infinite_one() -> None:
    columns, rows = cockpit_table(facts(128, memory=20_480.7), OPEN)
    assert columns == ["what", "images", "from"]
    assert {what: images for what, images, _ in rows} == {
        "your batch": 128,
        "noise scale": None,
        "noise scale, at least": 1200,
        "noise scale, at most": None,
        "most in memory": 20_481,
        "fewest for the network": None,
        "best by these": 1200,
    }
    assert all(isinstance(source, str) and source for _, _, source in rows)
    _, unknown = cockpit_table(facts(128), None)
    assert [images for _, images, _ in unknown] == [128, None, None, None, None, None, None]


def test_the_cockpit_asks_for_the_memory_once_and_logs_its_advice(tmp_path: Path) -> None:
    asked: list[int] = []

    def find_memory() -> Bound:
        asked.append(1)
        return Bound(images=640, source="planned")

    cockpit = Cockpit(images=128, num_ranks=1, find_memory=find_memory)
    assert cockpit.advice == ("The noise scale is not known: it was measured 0 times, and 5 are wanted for its spread.")
    log = MetricLog(tmp_path, resume_step=0)
    cockpit.log(log, step=10)
    cockpit.noise = KNOWN
    for _ in range(2):
        cockpit.look_at_memory()
    cockpit.log(log, step=30)
    log.close()
    assert len(asked) == 1
    tables = [medium for medium in read_media(tmp_path) if medium.name == "batch/cockpit"]
    assert [medium.step for medium in tables] == [10, 30]
    assert tables[1].caption == cockpit.advice
    assert json.dumps(tables[1].table()[1][4]) == '["most in memory", 640, "planned"]'


def test_a_forecast_that_fails_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def find_memory() -> Bound:
        raise RuntimeError("no such layer")

    cockpit = Cockpit(images=128, num_ranks=1, find_memory=find_memory)
    for _ in range(2):
        cockpit.look_at_memory()
    assert cockpit.memory == Bound(images=None, source="could not be planned")
    assert caplog.text.count("no such layer") == 1


def test_a_reason_not_to_measure_is_the_advice() -> None:
    cockpit = Cockpit(images=1, num_ranks=1, find_memory=lambda: NO_BOUND, unmeasured="one image a step")
    assert cockpit.advice == "The noise scale is not known: one image a step."


@pytest.mark.parametrize(("number", "text"), [(1793.2, "1,800"), (7.46, "7.5"), (0.314, "0.31"), (123456, "120,000")])
def test_numbers_have_two_digits(number: float, text: str) -> None:
    assert rounded(number) == text
