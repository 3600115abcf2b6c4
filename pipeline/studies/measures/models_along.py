"""What is measured at a finished run's weights: the samples that it was trained on, and its model at each checkpoint.

    trained = open_trained(run.record.folder)
    pixels_ND, labels_N = training_samples(trained)     # as the model sees them, in the order of the split
    for step, model in models_along(trained):           # from the initial weights, step 0, to the last checkpoint
        ...

Axes: N samples, D input features, H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.build_model import build_model
from pipeline.build_order import num_trained_on
from pipeline.data.augment import normalise
from pipeline.data.order import Int64Array, slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import LabelArray
from pipeline.data.subset import subset_ids
from pipeline.data_config import DataConfig
from pipeline.run_folder import CHECKPOINT_FOLDER
from pipeline.shards.manifest import DataSet, read_data_set
from pipeline.trained import PREFIX, Trained
from pipeline.training.checkpoint import load_checkpoint, stored_checkpoints


def training_samples(trained: Trained) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a run without augmentation trained on: normalised pixels, float32 (N, D), and labels, int64 (N,).

    Raises:
        UserError: the run's data set is no local packed one, or is gone.
        ValueError: labels of it were made wrong on purpose.
    """
    data = trained.config.data
    if data.label_noise:
        raise ValueError(f"data.label_noise={data.label_noise}: these labels are not those of the data set")
    images_BHWC, labels_N = stored_samples(data, data.train_split)
    mean_C, std_C = (torch.tensor(values) for values in (trained.facts.mean, trained.facts.std))
    return normalise(images_BHWC, mean_C, std_C), torch.from_numpy(labels_N)


def stored_samples(data: DataConfig, split: str) -> tuple[torch.Tensor, LabelArray]:
    """Return a split's images as they are stored, uint8 (N, H, W, C), and labels or targets, in the split's order.

    Of the training split they are those that a run of this config trained on.

    Raises:
        UserError: the data set is no local packed one, or is gone.
    """
    data_set = read_data_set(Path(data.places[0]))
    num_samples = data_set.split(split).num_samples
    sample_ids = np.arange(num_samples, dtype=np.int64)
    if split == data.train_split and data.train_samples is not None:
        wanted = num_trained_on(data, num_samples)
        sample_ids = subset_ids(num_samples=num_samples, wanted=wanted, seed=data.subset_seed)
    return samples_at(data_set, split, sample_ids)


def samples_at(data_set: DataSet, split: str, sample_ids: Int64Array) -> tuple[torch.Tensor, LabelArray]:
    """Return these samples of a local packed data set: images, uint8 (N, H, W, C), and labels or targets.

    Raises:
        UserError: it is no packed one, or has no such split.
    """
    with closing(PackedReader(data_set, split)) as reader:
        images_BHWC = torch.empty((len(sample_ids), *reader.image_shape), dtype=torch.uint8)
        return images_BHWC, reader.fill(slots_of(sample_ids), epoch=0, out=images_BHWC)


def models_along(trained: Trained) -> Iterator[tuple[int, nn.Module]]:
    """Yield (finished steps, model) of a run: as it started from random weights, then at each checkpoint that it kept.

    The models are in evaluation mode, with the very weights that were trained, not an average of them.
    """
    checkpoints = stored_checkpoints(trained.folder / CHECKPOINT_FOLDER)
    for step, path in [(0, None), *reversed(checkpoints)]:
        model = build_model(
            trained.config.model,
            in_features=math.prod(trained.facts.image_shape),
            num_classes=len(trained.facts.classes),
            seed=trained.config.seed,
        )
        if path is not None:
            state = load_checkpoint(path)["state_dict"]
            own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
            model.load_state_dict(own)
        yield step, model.eval()
