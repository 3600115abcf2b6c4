"""The runs of the study of batch sizes: those that tune the rate, those at the tuned rates, and Lion's.

groups(Scale.laptop, "0,1,2")                   # every size at several rates with the tuning seed; all of Lion's
follow_up(runs, Scale.laptop, "0,1,2")          # every size at its best rate, with the seeds that are reported
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.studies.study import ACCURACY, Group, Scale, StudyRuns

TUNING_SEED = 1000
EPOCHS, UPDATES, LONG = "equal epochs", "equal updates", "many epochs"
# Samples of the set, epochs and updates of the two ways to compare, and the hidden layer.
SAMPLES: Mapping[Scale, int] = {Scale.laptop: 8192, Scale.gpu: 49152}
NUM_EPOCHS: Mapping[Scale, int] = {Scale.laptop: 2, Scale.gpu: 8}
NUM_UPDATES: Mapping[Scale, int] = {Scale.laptop: 128, Scale.gpu: 1024}
HIDDEN: Mapping[Scale, int] = {Scale.laptop: 128, Scale.gpu: 1024}
SIZES = (1, 8, 32, 64, 128, 512, 4096)
# In the middle of the grid of rates of each size; the last is that of the whole set.
RATES: Mapping[str, Sequence[float]] = {
    EPOCHS: (0.0005, 0.002, 0.015, 0.03, 0.06, 0.16, 0.4, 0.8),
    UPDATES: (0.002, 0.004, 0.015, 0.03, 0.06, 0.12, 0.12, 0.16),
}
FACTORS: Mapping[Scale, Sequence[float]] = {Scale.laptop: (0.5, 1, 2), Scale.gpu: (0.125, 0.25, 0.5, 1, 2)}
LION_SIZES, LION_RATES = (64, 512, 4096), (0.001, 0.003, 0.01)
LION_EPOCHS: Mapping[Scale, int] = {Scale.laptop: 12, Scale.gpu: 100}
# Of the ends of these sizes, many epochs: rates that are tuned, lower ones than for few.
LONG_RATES: Mapping[int, Sequence[float]] = {64: (0.0003, 0.001), 4096: (0.003, 0.01)}
LONG_EPOCHS: Mapping[Scale, int] = {Scale.laptop: 48, Scale.gpu: 400}


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    """Return the runs that tune, and all of the second part."""
    found = []
    for way, rates in RATES.items():
        for size, middle in zip([*SIZES, SAMPLES[scale]], rates, strict=True):
            grid = ",".join(f"{middle * factor:.4g}" for factor in FACTORS[scale])
            options = (*_options(scale, way, size), f"seed={TUNING_SEED}", f"optimizer.rate={grid}")
            found.append(Group(name=f"tuning, {way}, {size}", data=_data(scale), options=options))
    held = ",".join(map(str, LION_RATES))
    for size in LION_SIZES:
        options = _lion_options(scale, size, LION_EPOCHS[scale])
        options = (*options, f"seed={TUNING_SEED},{seeds}", f"optimizer.rate={held}")
        found.append(Group(name=f"lion, {size}", data=_data(scale), options=options))
    for size, several in LONG_RATES.items():
        options = _lion_options(scale, size, LONG_EPOCHS[scale])
        options = (*options, f"seed={TUNING_SEED}", f"optimizer.rate={','.join(map(str, several))}")
        found.append(Group(name=f"tuning, {LONG}, {size}", data=_data(scale), options=options))
    return found


def follow_up(runs: StudyRuns, scale: Scale, seeds: str) -> Sequence[Group]:
    """Return the runs at the tuned rates, with the seeds that are reported."""
    options_of = {(way, size): _options(scale, way, size) for way in RATES for size in [*SIZES, SAMPLES[scale]]} | {
        (LONG, size): _lion_options(scale, size, LONG_EPOCHS[scale]) for size in LONG_RATES
    }
    return [
        Group(
            name=f"{way}, {size}",
            data=_data(scale),
            options=(*options, f"seed={seeds}", f"optimizer.rate={tuned_rate(runs, way, size)}"),
        )
        for (way, size), options in options_of.items()
    ]


def _data(scale: Scale) -> str:
    return "cifar10-8" if scale is Scale.laptop else "cifar10"


def _common(scale: Scale) -> tuple[str, ...]:
    return (
        *(f"data.train_samples={SAMPLES[scale]}", "track.gap=false", "track.layers_every_steps=null"),
        *("track.noise_scale_every_steps=null", "checkpoint.every_steps=1000000", "evaluation.every_epochs=1000"),
    )


def _options(scale: Scale, way: str, size: int) -> tuple[str, ...]:
    """Return the options of the first part: SGD with momentum at a constant rate, on images as they are."""
    long = NUM_UPDATES[scale] * size // SAMPLES[scale] + 1
    return (
        *(*_common(scale), "model=mlp", f"model.hidden=[{HIDDEN[scale]}]", "optimizer=sgd", "schedule=constant"),
        *("augment=none", f"batch.size={'full' if size == SAMPLES[scale] else size}"),
        f"trainer.log_every_steps={max(1, 1024 // size)}",
        f"trainer.max_epochs={NUM_EPOCHS[scale] if way == EPOCHS else long}",
        *([f"trainer.max_steps={NUM_UPDATES[scale]}"] if way == UPDATES else []),
    )


def _lion_options(scale: Scale, size: int, epochs: int) -> tuple[str, ...]:
    """Return the options of the second part: a bottleneck MLP on mirrored images, the rate falling to zero."""
    return (
        *(*_common(scale), "model=bottleneck_mlp", "model.depth=1", f"model.width={HIDDEN[scale] // 2}"),
        *("optimizer=lion", "schedule=cosine", "augment=flip_crop", "augment.crop_padding=0"),
        *(f"batch.size={size}", f"trainer.max_epochs={epochs}"),
    )


def tuned_rate(runs: StudyRuns, way: str, size: int) -> str:
    """Return the rate with the highest accuracy of the seed that tunes, as it was typed; of equals the first."""
    return max(runs.of(f"tuning, {way}, {size}"), key=lambda run: run.metric(ACCURACY)).options["optimizer.rate"]
