"""`python -m pipeline.export run=DIR out=DIR format=...`: a run's model in a form that others read, checked.

    python -m pipeline.export run=runs/0007 out=exports/mine                    # model.safetensors
    python -m pipeline.export run=runs/0007 out=exports/onnx format=onnx        # uint8 images in, logits out

What is written is read back, asked about real samples of the run's data, and published only if it says what the run's
model says. Beside the model the folder gets the run's config.yaml, model.json (classes, image shape, normalisation, how
images were prepared, the result of the check) and README.md, the model card.

| format | file | read by | takes | may differ by |
|---|---|---|---|---|
| safetensors | model.safetensors | `pipeline.predict`, `init.run=`, others | weights alone | nothing |
| torch_export | model.pt2 | torch.export.load, without our code | images | rounding |
| onnx | model.onnx | ONNX Runtime and others | images | rounding |

`normalise=false` makes the last two take pixels that are normalised already, float32 (B, D).
"""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.build_data import Wanted, open_splits
from pipeline.compose import compose, help_text
from pipeline.data.augment import normalise
from pipeline.data.order import slots_of
from pipeline.data_config import Check
from pipeline.export_config import EXPORT_SCHEMAS, ExportConfig, Format
from pipeline.export_formats import Answer, ImageModel, write_onnx, write_safetensors, write_torch_export
from pipeline.model_card import card_of
from pipeline.run_folder import CONFIG_FILE
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import fsync_folder, publish_bytes, publish_json
from pipeline.shards.task import Task
from pipeline.trained import FACTS_FILE, WEIGHTS_FILE, Trained, build_trained, data_at, facts_to_plain, open_trained
from pipeline.world import World

SUMMARY = """Write a run's model in a form that others read, checked against the run's own outputs.

  python -m pipeline.export run=runs/0007 out=exports/mine
  python -m pipeline.export run=runs/0007 out=exports/onnx format=onnx"""

FILES = {Format.safetensors: WEIGHTS_FILE, Format.onnx: "model.onnx", Format.torch_export: "model.pt2"}
CARD_FILE = "README.md"
# Largest difference of a logit, over the largest logit: other kernels add in another order.
TOLERANCE = {Format.safetensors: 0.0, Format.onnx: 1e-4, Format.torch_export: 1e-5}
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, cuda=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a written model says of real samples, beside what it should.

    Attributes:
        largest_difference: of any logit.
        largest_logit: by its absolute value.
        agreeing: samples for which both name the same class; None: a regression has none.
    """

    samples: int
    largest_difference: float
    largest_logit: float
    agreeing: int | None


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("export", EXPORT_SCHEMAS, summary=SUMMARY))
        return 0
    config: ExportConfig = compose("export", EXPORT_SCHEMAS, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    found = export(config)
    answer = "logit" if found.agreeing is not None else "target"
    agreeing = "" if found.agreeing is None else f", same class in {found.agreeing}"
    sys.stdout.write(
        f"{config.out}/{FILES[config.format]}: {found.samples} samples, largest difference of a {answer}"
        f" {found.largest_difference:.1e} ({answer}s to {found.largest_logit:.1f}){agreeing}\n"
    )
    return 0


def export(config: ExportConfig) -> Found:
    """Write the model, check what was written, and publish the folder.

    Raises:
        UserError: no such run, data that is not there, a folder that is, a missing package, or a written model that
            says something else.
    """
    folder, out = Path(config.run), Path(config.out)
    if out.exists():
        raise UserError(f"out={out}: is there already; choose another folder")
    trained = open_trained(folder, data_path=config.data.path, cache=config.cache)
    images_BHWC = read_samples(trained, config)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        path = part / FILES[config.format]
        found = write_checked(trained, images_BHWC, path, config)
        publish_bytes(part / CONFIG_FILE, (folder / CONFIG_FILE).read_bytes())
        publish_json(part / FACTS_FILE, facts_to_plain(trained.facts, step=trained.step) | _facts_of(config, found))
        publish_bytes(part / CARD_FILE, card_of(trained, file=path, takes_images=config.normalise).encode())
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    fsync_folder(out.parent)
    return found


def read_samples(trained: Trained, config: ExportConfig) -> torch.Tensor:
    """Return the first images, uint8 (B, H, W, C), of a split of the run's data."""
    data = trained.config.data
    if data.stream is not None and config.data.path is None:
        raise UserError("the run was trained on a stream: data.path= names a data set to check the export on")
    data = data_at(data, config.data.path, check=Check.sizes)
    wanted = Wanted(name=config.split or data.val_split)
    _, (reader,) = open_splits(data, config.cache, [wanted], ALONE)
    try:
        slots = slots_of(np.arange(min(config.samples, reader.num_samples), dtype=np.int64))
        images_BHWC = torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8)
        reader.start(iter([(0, slots.sample_ids)]))
        reader.fill(slots, epoch=0, out=images_BHWC)
        reader.finish(0)
    finally:
        reader.close()
    return images_BHWC


def write_checked(trained: Trained, images_BHWC: torch.Tensor, path: Path, config: ExportConfig) -> Found:
    """Write the model to `path` and return what the file says of the images.

    Raises:
        UserError: it says something else than the run's model.
    """
    model = build_trained(trained)
    facts = trained.facts
    pixels_BD = normalise(images_BHWC, torch.tensor(facts.mean), torch.tensor(facts.std))
    # In two parts, one of a single row: an exporter may take the example's number of rows for a constant.
    with torch.inference_mode():
        expected_BK = torch.cat([model(part) for part in _parts(pixels_BD)])
    answer, inputs = _write(model, images_BHWC, pixels_BD, path, trained, config)
    said_BK = torch.cat([answer(part) for part in _parts(inputs)])
    found = compare(expected_BK, said_BK, has_classes=trained.facts.task is not Task.regression)
    if not found.largest_difference <= TOLERANCE[config.format] * found.largest_logit:
        raise UserError(
            f"format={config.format.name}: the written model says something else than the run's: logits differ by"
            f" {found.largest_difference:.3g}, at most {TOLERANCE[config.format] * found.largest_logit:.3g} wanted;"
            " nothing was published"
        )
    return found


def _parts(rows: torch.Tensor) -> list[torch.Tensor]:
    """Return the first row and the others."""
    return [rows[:1], *([rows[1:]] if len(rows) > 1 else [])]


def compare(expected_BK: torch.Tensor, said_BK: torch.Tensor, *, has_classes: bool = True) -> Found:
    """Return how far outputs are from those expected; a difference that is not a number is infinite."""
    difference = (expected_BK.double() - said_BK.double()).abs().max().item()
    return Found(
        samples=len(expected_BK),
        largest_difference=difference if difference == difference else float("inf"),
        largest_logit=expected_BK.abs().max().item(),
        agreeing=int((expected_BK.argmax(1) == said_BK.argmax(1)).sum()) if has_classes else None,
    )


def _write(
    model: nn.Module,
    images_BHWC: torch.Tensor,
    pixels_BD: torch.Tensor,
    path: Path,
    trained: Trained,
    config: ExportConfig,
) -> tuple[Answer, torch.Tensor]:
    """Write the model; return what reads the file, and the inputs that it takes."""
    if config.format is Format.safetensors:
        metadata = {"format": "pt", "model": type(trained.config.model).__name__.removesuffix("Config")}
        return write_safetensors(model, path, metadata=metadata), pixels_BD
    if config.normalise:
        model = ImageModel(model, mean=trained.facts.mean, std=trained.facts.std).eval()
    inputs = images_BHWC if config.normalise else pixels_BD
    # Two rows: torch.export takes one row for a constant.
    example = inputs[:2] if len(inputs) > 1 else torch.cat([inputs, inputs])
    write = write_onnx if config.format is Format.onnx else write_torch_export
    return write(model, example, path), inputs


def _facts_of(config: ExportConfig, found: Found) -> dict[str, Any]:
    takes_images = config.normalise and config.format is not Format.safetensors
    return {
        "format": config.format.name,
        "takes": "uint8 images (B, H, W, C)" if takes_images else "normalised float32 pixels (B, D)",
        "check": {
            "samples": found.samples,
            "largest_difference": found.largest_difference,
            "largest_logit": found.largest_logit,
            "agreeing": found.agreeing,
        },
    }


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
