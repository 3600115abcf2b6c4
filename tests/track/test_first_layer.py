"""The first layer's weights as images: each weight where its pixel is, in a colour that says its sign and size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.shards.manifest import DataSet
from pipeline.track import first_layer
from pipeline.track.first_layer import GAP, MAX_TILE_SIDE, TILE_SIDE, draw_units, is_drawn, strongest_units
from pipeline.track.media import Medium, read_media
from pipeline.training.checkpoint import checkpoint_name, load_checkpoint
from runs import SMALL, run_ranks, train_here

PICTURES = ["track.pictures=true", "trainer.max_epochs=2"]
GREY, WHITE = [128, 128, 128], [247, 247, 247]


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def tile_of(png: bytes, *, column: int, row: int = 0, height: int = TILE_SIDE, width: int = TILE_SIDE) -> npt.NDArray:
    y, x = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return pixels_of(png)[y : y + height, x : x + width]


def test_each_channel_of_a_weight_has_its_pixel_and_its_own_colour() -> None:
    weights_UHWC = np.zeros((2, 4, 4, 3), np.float32)
    weights_UHWC[0, 1, 2, 0] = 5.0  # red wanted
    weights_UHWC[1, 3, 0, 2] = -5.0  # blue unwanted
    png, _ = draw_units(weights_UHWC.reshape(2, -1), image_shape=(4, 4, 3))
    first, second = (tile_of(png, column=column)[:: TILE_SIDE // 4, :: TILE_SIDE // 4] for column in (0, 1))
    assert first[1, 2].tolist() == [255, 128, 128]
    assert second[3, 0].tolist() == [128, 128, 0]
    assert np.count_nonzero((first != GREY).any(axis=2)) == np.count_nonzero((second != GREY).any(axis=2)) == 1


def test_of_grey_images_blue_is_below_and_red_above_white() -> None:
    weights_UHWC = np.zeros((1, 2, 2, 1), np.float32)
    weights_UHWC[0, 0, 0, 0], weights_UHWC[0, 1, 1, 0] = 1.0, -1.0
    png, scale = draw_units(weights_UHWC.reshape(1, -1), image_shape=(2, 2, 1))
    above, zero, _, below = tile_of(png, column=0)[:: TILE_SIDE // 2, :: TILE_SIDE // 2].reshape(4, 3).tolist()
    assert scale == pytest.approx(3 * np.sqrt(0.5))
    assert zero == WHITE
    assert above[0] > above[2] + 30
    assert below[2] > below[0] + 30


@pytest.mark.parametrize(("shape", "side"), [((8, 8, 3), TILE_SIDE), ((224, 224, 3), MAX_TILE_SIDE), ((28, 28, 1), 56)])
def test_tiles_are_of_a_size_to_be_seen(shape: tuple[int, int, int], side: int) -> None:
    weights_UD = np.random.default_rng(0).normal(size=(9, int(np.prod(shape)))).astype(np.float32)
    png, _ = draw_units(weights_UD, image_shape=shape)
    assert pixels_of(png).shape == (3 * (side + GAP) + GAP, 3 * (side + GAP) + GAP, 3)


@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf])
def test_weights_without_a_scale_are_drawn_as_zero(fill: float) -> None:
    png, scale = draw_units(np.full((1, 12), fill, np.float32), image_shape=(2, 2, 3))
    assert scale == 0
    assert (tile_of(png, column=0) == GREY).all()


def test_the_strongest_units_are_those_of_largest_norm_and_few_keep_their_places() -> None:
    weights_UD = torch.randn(50, 7, generator=torch.Generator().manual_seed(3))
    expected = sorted(range(50), key=lambda unit: -weights_UD[unit].norm().item())[:8]
    assert strongest_units(weights_UD, num_units=8).tolist() == expected
    assert strongest_units(weights_UD, num_units=50).tolist() == list(range(50))


def test_pictures_are_few_however_long_a_run_is() -> None:
    assert [step for step in range(1, 12_346) if is_drawn(step, total_steps=12_345)] == [10, 100, 1000, 10_000, 12_345]


def pictures_of(run_dir: Path) -> list[Medium]:
    return [medium for medium in read_media(run_dir) if medium.name == "model/first_layer"]


def test_a_run_draws_at_its_start_in_between_and_at_its_end(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", *PICTURES)
    pictures = pictures_of(tmp_path / "run")
    assert [medium.step for medium in pictures] == [0, 10, 16]
    weights = load_checkpoint(tmp_path / "run" / "checkpoints" / checkpoint_name(16))["state_dict"]
    png, _ = draw_units(weights["model.0.linear.weight"].numpy(), image_shape=(8, 8, 3))
    assert pictures[-1].path.read_bytes() == png
    assert "its 16 units" in pictures[-1].caption


def test_a_resumed_run_has_each_picture_once_and_equal(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*PICTURES, "checkpoint.every_steps=5", "checkpoint.keep=9"]
    train_here(synthetic.root, tmp_path / "run", *options)
    expected = [(medium.step, medium.path.read_bytes()) for medium in pictures_of(tmp_path / "run")]
    for name in (checkpoint_name(16), checkpoint_name(15), checkpoint_name(10), checkpoint_name(8), "../summary.json"):
        (tmp_path / "run" / "checkpoints" / name).unlink(missing_ok=True)
    train_here(synthetic.root, tmp_path / "run", *options)
    assert [(medium.step, medium.path.read_bytes()) for medium in pictures_of(tmp_path / "run")] == expected


def test_a_picture_that_cannot_be_drawn_ends_no_run(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> tuple[bytes, float]:
        raise MemoryError("no room for a sheet")

    monkeypatch.setattr(first_layer, "draw_units", fail)
    summary = train_here(synthetic.root, tmp_path / "run", *PICTURES)
    assert summary["steps"] == 16
    assert not pictures_of(tmp_path / "run")
    assert caplog.text.count("no room for a sheet") == 3


@pytest.mark.slow
def test_sharded_weights_are_drawn_whole(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*SMALL, *PICTURES, "trainer.max_steps=1"]
    train_here(synthetic.root, tmp_path / "one", *options)
    fsdp = [f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", "trainer.strategy=fsdp"]
    run_ranks(2, "pipeline.train", *options, *fsdp)
    one, two = pictures_of(tmp_path / "one"), pictures_of(tmp_path / "two")
    assert [medium.step for medium in two] == [0, 1]
    assert one[0].path.read_bytes() == two[0].path.read_bytes()
