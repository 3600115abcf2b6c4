"""A trained model, wherever it lies: in a run folder, as its newest whole checkpoint, or in a folder that was exported.

    trained = open_trained(Path("runs/0001"))
    model = build_trained(trained)                      # in evaluation mode, on the CPU
    trained.facts.classes[int(model(pixels_BD).argmax())]

A run folder holds no facts of the data, these stand in the data set, which must be there (`data_path` says where it is
now); of it dataset.json and the manifests are read, no shard. An exported folder holds everything:

    model.safetensors   weights, by the names of the model's state dict
    config.yaml         the run's config
    model.json          facts of the data: classes, image shape, mean and std, how images were prepared

Where a run keeps an average of its weights (`ema.decay`), that is what is evaluated, and so what is meant here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.build import pixel_statistics
from pipeline.build_data import ENCODED_RESOLUTION
from pipeline.build_model import build_model
from pipeline.config import TrainConfig, from_stored
from pipeline.data.picture import Preparation
from pipeline.data.remote_set import open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data_config import CacheConfig, Check, DataConfig
from pipeline.init_config import Head, InitConfig
from pipeline.model.input_shuffle import shuffle_seed
from pipeline.run_folder import CHECKPOINT_FOLDER, CONFIG_FILE, read_json
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DATA_SET_FILE, DataSet
from pipeline.shards.task import Task
from pipeline.track.run_reading import read_config
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from pipeline.training.ema import evaluated_weights
from pipeline.training.initial import take_over

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
FACTS_FILE = "model.json"
FACTS_VERSION = 1
# Of the model in the module's state dict.
PREFIX = "model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a model has to know of the data that it was trained on.

    Attributes:
        data_name: the data set's name.
        classes: names for people; outputs are in their order.
        class_ids: the source's own ids of the classes.
        task: what labels mean.
        image_shape: height, width, channels.
        mean, std: of each channel, in 0..255, by which pixels are normalised.
        preparation: how pictures become such images.
    """

    data_name: str
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    task: Task
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: Preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model, not built yet.

    Attributes:
        folder: the run's, or the export's.
        weights: by the names of the model's state dict, on the CPU.
        step: updates that made them, None where the folder does not say.
    """

    folder: Path
    config: TrainConfig
    facts: Facts
    weights: dict[str, torch.Tensor]
    step: int | None


def open_trained(folder: Path, *, data_path: str | None = None, cache: CacheConfig | None = None) -> Trained:
    """Read a run folder or an exported one.

    Args:
        data_path: where a run's data set is now; None: where it was.

    Raises:
        UserError: it is neither, has no whole checkpoint, or the run's data set is not there.
    """
    config = from_stored(read_config(folder))
    weights, step = read_weights(folder)
    if (folder / FACTS_FILE).is_file():
        facts = facts_from_plain(read_json(folder / FACTS_FILE), path=folder / FACTS_FILE)
    else:
        facts = facts_of_run(config, data_path=data_path, cache=cache or config.cache)
    return Trained(folder=folder, config=config, facts=facts, weights=weights, step=step)


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], int | None]:
    """Return the weights in a run folder or an exported one, by the names of the model's state dict, and their step.

    Raises:
        UserError: there are none.
    """
    exported = folder / WEIGHTS_FILE
    if exported.is_file():
        try:
            return load_file(exported), read_json(folder / FACTS_FILE).get("step")
        except Exception as error:  # safetensors has an exception of its own that is no OSError
            raise UserError(f"{exported}: cannot be read ({error}); export the run again") from None
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"run={folder}: neither a run ({CONFIG_FILE}, {CHECKPOINT_FOLDER}/) nor an export")
    checkpoint = newest_whole_checkpoint(folder / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise UserError(f"run={folder}: has no whole checkpoint yet; go on training with resume=true run_dir={folder}")
    content = load_checkpoint(checkpoint)
    state = evaluated_weights(content)
    weights = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    return weights, int(content["global_step"])


def build_trained(trained: Trained) -> nn.Module:
    """Return the model with its weights, in evaluation mode, on the CPU.

    Raises:
        UserError: weights and config are not of one model.
    """
    facts = trained.facts
    model = build_model(
        trained.config.model,
        in_features=math.prod(facts.image_shape),
        num_classes=len(facts.classes),
        seed=trained.config.seed,
    )
    try:
        model.load_state_dict(trained.weights)
    except RuntimeError:
        first = next(iter(trained.weights.values()))
        raise UserError(
            f"run={trained.folder}: images of {facts.image_shape} in {len(facts.classes)} classes do not fit its"
            f" weights, whose first are {list(first.shape)}; data.path= names the data set that it was trained on"
        ) from None
    return model.eval()


def start_from(config: InitConfig, model: nn.Module) -> None:
    """Put another run's weights into a model that is to be trained, where that is asked for.

    Raises:
        UserError: no such run, or one of another model.
    """
    if config.run is not None:
        weights, step = read_weights(Path(config.run))
        there, here = read_config(Path(config.run))["model"].get("input_shuffle_seed"), shuffle_seed(model)
        if there != here:
            raise UserError(
                f"init.run={config.run}: was trained with model.input_shuffle_seed={_typed(there)},"
                f" {_typed(here)} here; the same is wanted"
            )
        take_over(model, weights, keep_head=config.head is Head.keep, source=config.run)
        log.info("starting from the weights of %s%s", config.run, "" if step is None else f" after step {step:,}")


def data_at(data: DataConfig, path: str | None, *, check: Check) -> DataConfig:
    """Return a run's options of data for a data set that is at `path` now; None: where it was."""
    data = dataclasses.replace(data, check=check)
    return data if path is None else dataclasses.replace(data, path=path, paths=None, weights=None, stream=None)


def facts_of_run(config: TrainConfig, *, data_path: str | None, cache: CacheConfig) -> Facts:
    """Return the facts of the data set that a run was trained on, read where it is now.

    Raises:
        UserError: it is not there.
    """
    side = config.data.resolution or ENCODED_RESOLUTION
    if config.data.stream is not None and data_path is None:
        classes = tuple(str(number) for number in range(config.data.stream_classes or 0))
        shape = (side, side, 3)
        mean, std = pixel_statistics(None, channels=3)
        return Facts(
            data_name="stream",
            classes=classes,
            class_ids=classes,
            task=Task.classification,
            image_shape=shape,
            mean=mean,
            std=std,
            preparation=Preparation(height=side, width=side, channels=3, is_packed=False),
        )
    path = data_path or config.data.places[0]
    options = CacheOptions(dir=cache.dir, max_bytes=cache.max_bytes, patience_s=cache.patience_s)
    try:
        data_set = open_data_set(path, cache=options).data_set
    except UserError as error:
        raise UserError(f"the run's data set cannot be read, data.path= says where it is now: {error}") from None
    return facts_of(data_set, side=side)


def facts_of(data_set: DataSet, *, side: int) -> Facts:
    """Return the facts of a data set whose encoded images, if it holds such, are brought to a side."""
    packed = data_set.packed
    shape = (packed.height, packed.width, packed.channels) if packed else (side, side, 3)
    mean, std = pixel_statistics(data_set.statistics, channels=shape[2])
    return Facts(
        data_name=data_set.name,
        classes=data_set.classes,
        class_ids=data_set.class_ids,
        task=data_set.task,
        image_shape=shape,
        mean=mean,
        std=std,
        preparation=_preparation(data_set, shape),
    )


def facts_to_plain(facts: Facts, *, step: int | None) -> dict[str, Any]:
    """Return the facts as model.json has them."""
    return {"version": FACTS_VERSION, "step": step, **dataclasses.asdict(facts)}


def facts_from_plain(plain: dict[str, Any], *, path: Path) -> Facts:
    """Return the facts that `facts_to_plain` made plain.

    Raises:
        UserError: it is not of that form.
    """
    try:
        if plain["version"] != FACTS_VERSION:
            raise ValueError(f"version {plain['version']!r}, {FACTS_VERSION} wanted")
        height, width, channels = map(int, plain["image_shape"])
        return Facts(
            data_name=str(plain["data_name"]),
            classes=tuple(map(str, plain["classes"])),
            class_ids=tuple(map(str, plain["class_ids"])),
            task=Task(plain["task"]),
            image_shape=(height, width, channels),
            mean=tuple(map(float, plain["mean"])),
            std=tuple(map(float, plain["std"])),
            preparation=Preparation(**plain["preparation"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the facts of a model ({error}); export the run again") from None


def _typed(value: int | None) -> str:
    return "null" if value is None else str(value)


def _preparation(data_set: DataSet, shape: tuple[int, int, int]) -> Preparation:
    """Return how the data set's images were prepared, as far as it says so; else as preparation does by itself."""
    try:
        provenance = json.loads((data_set.root / DATA_SET_FILE).read_bytes()).get("provenance") or {}
        layout = provenance.get("layout") or {}
    except (OSError, ValueError, AttributeError):
        layout = {}
    choices = layout if isinstance(layout, dict) else {}
    scale, shuffle = choices.get("min_scale", 2.0), choices.get("pixel_shuffle_seed")
    return Preparation(
        height=shape[0],
        width=shape[1],
        channels=shape[2],
        is_packed=data_set.packed is not None,
        is_cropped=choices.get("fit") != "stretch",
        min_scale=float(scale) if isinstance(scale, (int, float)) else None,
        exif_orientation=bool(choices.get("exif_orientation", False)),
        pixel_shuffle_seed=shuffle if isinstance(shuffle, int) else None,
    )
