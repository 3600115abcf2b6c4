"""`python -m pipeline.predict run=DIR images=[...]`: what a trained model says of image files.

    python -m pipeline.predict run=runs/0007 images=[photos/cat.jpg]
    python -m pipeline.predict run=exports/mine images=[photos] out=seen

Pictures are prepared as those that the model was trained on: decoded, cut or stretched and resized by the rules of the
data set, normalised with its mean and standard deviation. In the folder `out` are left

    predictions.jsonl   one object an image: {"image", "top": [{"class", "label", "score"}, ...]}, or {"image", "error"}
                        (of a regression {"image", "targets": {name: value, ...}})
    predictions.png     the first images, as the model sees them, each with its two best classes or first targets

A score is a probability (softmax; for several labels an image a sigmoid each), for objective=mse the output itself.
Memory does not grow with the number of images. A file that is no image is named, the others go on, and the exit code
is 2.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.build_objective import build_objectives
from pipeline.compose import compose, help_text
from pipeline.data.augment import normalise
from pipeline.data.picture import EXTENSIONS, UInt8Array, prepare_picture
from pipeline.predict_config import PREDICT_SCHEMAS, PredictConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish, publish_bytes
from pipeline.shards.task import Task
from pipeline.track.contact_sheet import Tile, draw_sheet
from pipeline.trained import Trained, build_trained, open_trained
from pipeline.training.scores import scores_of
from pipeline.world import join_world

SUMMARY = """Say what image files show, by a trained model.

  python -m pipeline.predict run=runs/0007 images=[photos/cat.jpg,photos/dogs]
  python -m pipeline.predict run=exports/mine images=[photos] out=seen top=3"""

PREDICTIONS_FILE = "predictions.jsonl"
SHEET_FILE = "predictions.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        pixels_HWC: what the model saw; None where there is an error.
        top: labels with their scores, the best first; of a regression all targets with the outputs, in their order.
        error: why the file could not be read.
    """

    path: Path
    pixels_HWC: UInt8Array | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str | None = None


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("predict", PREDICT_SCHEMAS, summary=SUMMARY))
        return 0
    config: PredictConfig = compose("predict", PREDICT_SCHEMAS, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    paths = find_images(config.images)
    trained = open_trained(Path(config.run), data_path=config.data.path, cache=config.cache)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    tiles: list[Tile] = []
    num_images, errors = 0, []
    with publish(out / PREDICTIONS_FILE) as stream:
        for prediction in predict(trained, paths, config):
            num_images += 1
            stream.write((json.dumps(row_of(prediction, trained), ensure_ascii=False) + "\n").encode())
            sys.stdout.write(line_of(prediction, trained))
            if prediction.error is not None:
                errors.append(f"{prediction.path}: {prediction.error}")
            elif len(tiles) < config.sheet_images:
                tiles.append(tile_of(prediction, trained))
    if tiles:
        picture = io.BytesIO()
        draw_sheet(tiles, title=title_of(trained, num_images)).save(picture, format="PNG")
        publish_bytes(out / SHEET_FILE, picture.getvalue())
    sheet = f" and {SHEET_FILE}" if tiles else ""
    sys.stdout.write(f"\n{num_images - len(errors):,} images -> {out}/{PREDICTIONS_FILE}{sheet}\n")
    if errors:
        raise UserError(f"{len(errors)} of {num_images} files cannot be read, the first: {errors[0]}")
    return 0


def find_images(places: Iterable[str]) -> list[Path]:
    """Return files as they were named, and below folders all that have an image's extension, in order.

    Raises:
        UserError: a place is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
            if not inside:
                raise UserError(f"images: {place} holds no image ({', '.join(EXTENSIONS)})")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise UserError(f"images: {place}: no such file or folder")
    return found


def predict(trained: Trained, paths: Iterable[Path], config: PredictConfig) -> Iterator[Prediction]:
    """Yield the model's predictions of image files, in their order."""
    device = torch.device("cuda", 0) if join_world(config.device).cuda else torch.device("cpu")
    model = build_trained(trained).to(device)
    waiting = iter(paths)
    while part := list(islice(waiting, config.batch_size)):
        pictures: list[UInt8Array] = []
        errors: dict[Path, str] = {}
        for path in part:
            try:
                pictures.append(prepare_picture(_read(path), preparation=trained.facts.preparation))
            except UserError as error:
                errors[path] = str(error)
        best = iter(_top_of(model, trained, pictures, num_top=config.top, device=device))
        seen = iter(pictures)
        for path in part:
            if path in errors:
                yield Prediction(path=path, error=errors[path])
            else:
                yield Prediction(path=path, pixels_HWC=next(seen), top=next(best))


def row_of(prediction: Prediction, trained: Trained) -> dict[str, Any]:
    """Return the prediction's object of predictions.jsonl."""
    if prediction.error is not None:
        return {"image": str(prediction.path), "error": prediction.error}
    classes = trained.facts.classes
    if trained.facts.task is Task.regression:
        return {"image": str(prediction.path), "targets": {classes[label]: value for label, value in prediction.top}}
    top = [{"class": classes[label], "label": label, "score": score} for label, score in prediction.top]
    return {"image": str(prediction.path), "top": top}


def line_of(prediction: Prediction, trained: Trained) -> str:
    """Return the prediction's line on the terminal."""
    if prediction.error is not None:
        return f"{prediction.path}  cannot be read: {prediction.error}\n"
    return f"{prediction.path}  {', '.join(_named(trained, label, score) for label, score in prediction.top)}\n"


def tile_of(prediction: Prediction, trained: Trained) -> Tile:
    """Return the prediction's tile of the sheet: what the model saw, and the two best classes or first targets."""
    assert prediction.pixels_HWC is not None
    best = tuple(_named(trained, label, score) for label, score in prediction.top[:2])
    return Tile(pictures=(prediction.pixels_HWC,), lines=(*best, str(prediction.path)))


def title_of(trained: Trained, num_images: int) -> str:
    step = f", step {trained.step:,}" if trained.step is not None else ""
    return f"{trained.folder}{step}: {num_images:,} image{'s' if num_images != 1 else ''}"


@torch.inference_mode()
def _top_of(
    model: nn.Module, trained: Trained, pictures: list[UInt8Array], *, num_top: int, device: torch.device
) -> list[tuple[tuple[int, float], ...]]:
    """Return the best labels and their scores of each picture, of a regression all outputs."""
    if not pictures:
        return []
    facts = trained.facts
    images_BHWC = torch.from_numpy(np.stack(pictures)).to(device)
    mean_C, std_C = torch.tensor(facts.mean, device=device), torch.tensor(facts.std, device=device)
    logits_BK = model(normalise(images_BHWC, mean_C, std_C))
    scores_BK = scores_of(logits_BK, build_objectives(trained.config.objective, task=facts.task).scores)
    if facts.task is Task.regression:
        return [tuple(enumerate(outputs_of_one)) for outputs_of_one in scores_BK.tolist()]
    scores, labels = scores_BK.topk(min(num_top, len(facts.classes)), dim=1)
    return [
        tuple(zip(labels_of_one, scores_of_one, strict=True))
        for labels_of_one, scores_of_one in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be opened ({error.strerror})") from None


def _named(trained: Trained, label: int, score: float) -> str:
    digits = ".4g" if trained.facts.task is Task.regression else ".3f"
    return f"{trained.facts.classes[label]} {score:{digits}}"


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
