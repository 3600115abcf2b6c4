"""Two descents of the test error: against the width of a network, and exactly against the number of random features.

After Belkin, Hsu, Ma, Mandal 2019 (arXiv 1812.11118) and Nakkiran and others 2020, "Deep Double Descent" (arXiv
1912.02292), who found that label noise makes the peak clear. Networks are trained by squared error on two classes, so
there is one independent target a sample, and a network with as many weights as samples can just fit all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.subset import subset_ids
from pipeline.shards.manifest import read_data_set
from pipeline.studies.estimate import difference_of
from pipeline.studies.measures.least_error import least_error
from pipeline.studies.measures.random_features import FeatureFit, fit_features, read_images
from pipeline.studies.panels.double_descent import Errors, feature_panel, network_panel, norm_panel
from pipeline.studies.study import ACCURACY, Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import seeds_text

NETWORK, LINEAR, HIDDEN = "two classes", "ten classes, linear", "model.hidden"
FITTED = "gap/train_top1_frac"
# Random features, as multiples of the number of samples.
RATIOS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 4.0)
FEW, THRESHOLD, MANY = RATIOS.index(0.1), RATIOS.index(1.0), len(RATIOS) - 1
NUM_NEW = 2000


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    if scale is Scale.laptop:
        widths: Sequence[int] = (1, 2, 4, 6, 9, 12, 16, 32, 64, 256)
        samples, batch, epochs, linear_samples = 600, 100, 400, 1000
    else:
        widths = (1, 2, 8, 24, 60, 90, 120, 180, 360, 1024, 4096)
        samples, batch, epochs, linear_samples = 6000, 500, 1000, 5000
    plain = (
        *(f"seed={seeds}", "data.subset_seed=${seed}", "augment=none", "optimizer=adamw", "optimizer.weight_decay=0"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "checkpoint.keep=1"),
    )
    network = (
        *(f"data.train_samples={samples}", "data.label_noise=0.2", "data.label_noise_seed=${seed}"),
        f"batch.size={batch}",
        *("model=mlp", f"{HIDDEN}={','.join(f'[{width}]' for width in widths)}", "objective=mse"),
        *("optimizer.rate=0.01", "schedule=cosine", f"trainer.max_epochs={epochs}"),
        f"evaluation.every_epochs={epochs // 50}",
    )
    linear = (
        *(f"data.train_samples={linear_samples}", "model=logistic_regression", "optimizer.rate=0.001"),
        *("batch.size=100", "schedule=constant", "trainer.max_epochs=30", "evaluation.every_epochs=2"),
    )
    return [
        Group(name=NETWORK, data="deer-truck-8", options=(*plain, *network)),
        # Beside the features, on the same images: what no feature at all comes to.
        Group(name=LINEAR, data="cifar10-8", options=(*plain, *linear)),
    ]


def measure(runs: StudyRuns) -> Outcome:
    by_width = _by_width(runs)
    final = {width: [_error(run) for run in found] for width, found in by_width.items()}
    stopped = {width: [least_error(run) for run in found] for width, found in by_width.items()}
    fits = [feature_fits(run) for run in runs.of(LINEAR)]
    features = [[100 * fit.test_error for fit in found] for found in zip(*fits, strict=True)]
    trained = {width: [100 * (1 - run.metric(FITTED)) for run in found] for width, found in by_width.items()}
    narrow, just, wide = 2, _threshold_width(by_width), max(by_width)
    checks = [
        Check(
            claim="A network that can just fit its training data is worse than one that is far wider.",
            statistic=f"test error at width {just} minus that at width {wide}, points",
            estimate=difference_of(final[just], final[wide]),
            above=3.0,
        ),
        Check(
            claim="It is worse than a narrow one, too.",
            statistic=f"test error at width {just} minus that at width {narrow}, points",
            estimate=difference_of(final[just], final[narrow]),
            above=3.0,
        ),
        Check(
            claim="Stopped early, networks have no such peak.",
            statistic=f"least test error of the run at width {just} minus that at width {wide}, points",
            estimate=difference_of(stopped[just], stopped[wide]),
            below=3.0,
        ),
        Check(
            claim="As many random features as samples are worse than four times as many.",
            statistic=f"test error with as many features as samples minus {RATIOS[MANY]:g} times as many, points",
            estimate=difference_of(features[THRESHOLD], features[MANY]),
            above=5.0,
        ),
        Check(
            claim="They are worse than a tenth as many, too.",
            statistic=f"test error with as many features as samples minus {RATIOS[FEW]:g} times as many, points",
            estimate=difference_of(features[THRESHOLD], features[FEW]),
            above=5.0,
        ),
    ]
    first, linear = by_width[just][0], [least_error(run) for run in runs.of(LINEAR)]
    samples, linear_samples = (int(run.record.config["data"]["train_samples"]) for run in (first, runs.of(LINEAR)[0]))
    counts = _counts(linear_samples)
    caption = (
        f"Left: two classes of CIFAR-10 (deer, truck; 8x8 grey pixels), {samples:,} images, 20 % of their labels drawn"
        f" at random; one hidden layer, squared error. Middle and right: {linear_samples:,} images of all ten classes"
        " (8x8 pixels), true labels; least squares on random rectified features, the smallest solution where there are"
        f" several; norms are geometric means. Error on {NUM_NEW:,} test images, that of the linear classifier on all."
        f" {seeds_text([run.seed for run in by_width[just]])}, each with its own images, labels and weights; bars:"
        " lowest to highest seed. Stopped early: at the least test error of the run, so a little better than one would"
        " do without knowing it."
    )
    return Outcome(
        checks=checks,
        picture=Picture(
            title="Test error rises to a peak where the training data can just be fitted, and falls again",
            caption=caption,
            panels=[
                network_panel(final, stopped, trained, just=just),
                feature_panel(fits, counts, samples=linear_samples, linear=statistics.fmean(linear)),
                norm_panel(fits, counts, samples=linear_samples),
            ],
        ),
        columns=["model", "size", "training error, %", "test error, %", "stopped early, %", "seeds"],
        rows=[
            *_network_rows(by_width, final, stopped, trained),
            *_feature_rows(fits, features, counts),
            ["linear classifier", "", "", "", spread_text(linear), len(linear)],
        ],
        notes=[_note(final, features)],
    )


def feature_fits(run: StudyRun) -> list[FeatureFit]:
    """Return the fits on random features of the images that a run was trained on, by ratio; its seed draws them."""
    data = run.record.config["data"]
    path, samples = Path(data["path"]), int(data["train_samples"])
    data_set = read_data_set(path)
    sample_ids = subset_ids(
        num_samples=data_set.split(data["train_split"]).num_samples, wanted=samples, seed=int(data["subset_seed"])
    )
    num_new = min(NUM_NEW, data_set.split(data["val_split"]).num_samples)
    return fit_features(
        read_images(path, data["train_split"], sample_ids),
        read_images(path, data["val_split"], np.arange(num_new, dtype=np.int64)),
        counts=_counts(samples),
        num_classes=data_set.num_classes,
        seed=run.seed,
    )


def _by_width(runs: StudyRuns) -> dict[int, list[StudyRun]]:
    """Return the network's runs by its width, ascending, each by seed."""
    widths = sorted({int(run.options[HIDDEN].strip("[]")) for run in runs.runs if run.group == NETWORK})
    return {width: runs.of(NETWORK, {HIDDEN: f"[{width}]"}) for width in widths}


def _threshold_width(by_width: dict[int, list[StudyRun]]) -> int:
    """Return the width whose number of weights is nearest to the number of samples, by ratio."""

    def distance(width: int) -> float:
        run = by_width[width][0]
        ratio = run.metric("parameters") / int(run.record.config["data"]["train_samples"])
        return max(ratio, 1 / ratio)

    return min(by_width, key=distance)


def _error(run: StudyRun) -> float:
    return 100 * (1 - run.metric(ACCURACY))


def _counts(samples: int) -> list[int]:
    """Return the numbers of random features."""
    return [max(1, round(ratio * samples)) for ratio in RATIOS]


def _network_rows(
    by_width: dict[int, list[StudyRun]], final: Errors, stopped: Errors, trained: Errors
) -> list[list[object]]:
    return [
        [
            "network",
            f"width {width}, {found[0].metric('parameters'):,.0f} weights",
            *(spread_text(errors[width]) for errors in (trained, final, stopped)),
            len(found),
        ]
        for width, found in by_width.items()
    ]


def _feature_rows(
    fits: Sequence[Sequence[FeatureFit]], features: Sequence[Sequence[float]], counts: Sequence[int]
) -> list[list[object]]:
    return [
        [
            "random features",
            f"{count:,} features",
            spread_text([fit.train_error for fit in found], factor=100),
            spread_text(errors),
            "",
            len(errors),
        ]
        for count, found, errors in zip(counts, zip(*fits, strict=True), features, strict=True)
    ]


def _note(final: Errors, features: Sequence[Sequence[float]]) -> str:
    """Say which size was best, and on which side of the peak."""
    means = {width: statistics.fmean(values) for width, values in final.items()}
    best, worst = min(means, key=lambda width: means[width]), max(means, key=lambda width: means[width])
    by_ratio = [statistics.fmean(values) for values in features]
    best_ratio = RATIOS[by_ratio.index(min(by_ratio))]
    return (
        f"Trained to the end, the network of width {best} is best ({means[best]:.1f} %) and that of width {worst} is"
        f" worst ({means[worst]:.1f} %). Of random features {best_ratio:g} times as many as images are best"
        f" ({min(by_ratio):.1f} %), beyond the peak {RATIOS[MANY]:g} times as many ({by_ratio[MANY]:.1f} %)."
    )


STUDY = Study(
    name="double-descent",
    title="Double descent",
    claim="Beyond the size that just fits the training data, the test error of larger models falls again.",
    question="Does a model with more weights than data overfit the more, the more weights it has?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
