"""Predictions of image files: against the model itself, from a run and from an export; odd files; the command."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from coco_data import make_coco
from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import from_stored
from pipeline.predict import find_images, predict
from pipeline.predict_config import PREDICT_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.run_reading import read_config
from pipeline.trained import open_trained
from runs import train_here, weights_of
from test_runs import all_samples
from tiny_data import prepare_pictures, run_module, write_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of PNGs as large as they are stored."""
    root = tmp_path_factory.mktemp("photos")
    for split, number in (("train", 6), ("val", 3)):
        write_pictures(root / split, num_each=number)
    return root


@pytest.fixture(scope="module")
def data_set(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return prepare_pictures(photos, tmp_path_factory.mktemp("data") / "photos", "layout.resolution=8")


@pytest.fixture(scope="module")
def run(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_here(data_set.root, folder, "trainer.max_epochs=2", "batch.size=6", "augment=none")
    return folder


def predict_here(run: Path, *places: Path, **options: object) -> dict[str, list[tuple[int, float]]]:
    """Return what `predict` says of images, by their path."""
    typed = [f"{name}={value}" for name, value in options.items()]
    images = f"images=[{','.join(map(str, places))}]"
    config = compose("predict", PREDICT_SCHEMAS, [f"run={run}", images, "device=cpu", *typed])
    found = predict(open_trained(run), find_images(config.images), config)
    return {str(prediction.path): list(prediction.top) for prediction in found}


def test_files_of_the_training_set_get_the_models_own_outputs(photos: Path, data_set: DataSet, run: Path) -> None:
    """The files have the size that is stored, so nothing is lost on the way and scores are equal to rounding."""
    model = build_model(from_stored(read_config(run)).model, in_features=192, num_classes=3, seed=0)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights_of(run).items()})
    pixels, labels = all_samples(data_set, "val")
    expected = sorted(
        [
            (int(label), *(round(score, 4) for score in scores.tolist()))
            for label, scores in zip(labels, model(pixels).softmax(1), strict=True)
        ]
    )
    found = []
    for path, top in predict_here(run, photos / "val", batch_size=2).items():
        scores = dict(top)
        found.append(
            (sorted(["cat", "dog", "owl"]).index(Path(path).parent.name), *(round(scores[k], 4) for k in range(3)))
        )
        assert [score for _, score in top] == sorted(scores.values(), reverse=True)
        assert math.isclose(sum(scores.values()), 1, rel_tol=1e-5)
    assert len(found) == 9
    for left, right in zip(sorted(found), expected, strict=True):
        assert left == pytest.approx(right, abs=2e-4)


def test_the_number_of_images_in_a_pass_changes_nothing(photos: Path, run: Path) -> None:
    alone, together = (predict_here(run, photos / "val", batch_size=size, top=2) for size in (1, 100))
    assert alone.keys() == together.keys()
    for path, top in alone.items():
        assert len(top) == 2
        assert [label for label, _ in top] == [label for label, _ in together[path]]
        assert [score for _, score in top] == pytest.approx([score for _, score in together[path]], rel=1e-5)


@pytest.mark.slow
def test_the_command_leaves_rows_and_a_sheet_and_names_what_it_cannot_read(
    photos: Path, run: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "in" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    shutil.copy(photos / "val" / "cat" / "000.png", tmp_path / "in" / "[odd] name, of a file.PNG")
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    done = run_module(
        "pipeline.predict",
        f"run={run}",
        f"images=[{tmp_path / 'in'}]",
        f"out={tmp_path / 'out'}",
        "top=2",
        "device=cpu",
    )
    assert done.returncode == 2
    assert done.stderr == f"error: 1 of 2 files cannot be read, the first: {broken}: is no image\n"
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    by_name = {Path(row["image"]).name: row for row in rows}
    assert by_name["broken.jpg"] == {"image": str(broken), "error": "is no image"}
    top = by_name["[odd] name, of a file.PNG"]["top"]
    assert len(top) == 2
    assert [entry["class"] for entry in top] == [["cat", "dog", "owl"][entry["label"]] for entry in top]
    with Image.open(tmp_path / "out" / "predictions.png") as sheet:
        assert min(sheet.size) > 100
    assert "1 images -> " in done.stdout


def test_a_run_whose_data_has_moved_says_what_to_type(
    data_set: DataSet, photos: Path, run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    stored = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(stored.replace(str(data_set.root), "/nowhere"))
    with pytest.raises(UserError, match=r"data.path= says where it is now: /nowhere: no such folder"):
        open_trained(moved)
    assert open_trained(moved, data_path=str(data_set.root)).facts == open_trained(run).facts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["images=[nowhere.jpg]"], "nowhere.jpg: no such file or folder"),
        (["images=[]"], "at least one file or folder"),
        (["top=0", "images=[x]"], "top=0"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_images(compose("predict", PREDICT_SCHEMAS, options).images)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="holds no image"):
        find_images([str(tmp_path)])


@torch.inference_mode()
def test_files_come_in_their_order_and_as_often_as_named(photos: Path, run: Path) -> None:
    names = [photos / "val" / "owl" / "001.png", photos / "val" / "cat" / "000.png", photos / "val" / "owl" / "001.png"]
    config = compose(
        "predict",
        PREDICT_SCHEMAS,
        [f"run={run}", f"images=[{','.join(map(str, names))}]", "device=cpu", "batch_size=2"],
    )
    found = list(predict(open_trained(run), find_images(config.images), config))
    assert [prediction.path for prediction in found] == names
    assert dict(found[0].top) == pytest.approx(dict(found[2].top), rel=1e-5)


@pytest.mark.slow
def test_of_several_labels_an_image_each_has_a_probability_of_its_own(tmp_path: Path) -> None:
    data_set, labels = make_coco(tmp_path)
    options = ["objective=binary_cross_entropy", "augment=none", "trainer.max_epochs=40", "optimizer.rate=0.02"]
    train_here(data_set.root, tmp_path / "run", *options)
    pictures = tmp_path / "root" / "val2017"
    for number, top in enumerate(predict_here(tmp_path / "run", pictures, top=4).values()):
        assert sorted(label for label, score in top if score > 0.5) == labels["val"][number]
