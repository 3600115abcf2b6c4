"""`python -m pipeline.inspect` shows what training was fed, equal to the last bit to what a run's model received."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.inspect import inspect, main
from pipeline.inspect_config import INSPECT_SCHEMAS, InspectConfig
from pipeline.inspected import GlobalBatch, table_of, tile_of
from pipeline.run_folder import SUMMARY_FILE
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.contact_sheet import Tile, draw_sheet
from pipeline.track.half_blocks import half_blocks
from pipeline.training.checkpoint import stored_checkpoints
from pipeline.training.module import ClassifierModule
from runs import sample_ids, train_here
from shard_server import shard_server
from synthetic_data import make_synthetic
from tiny_data import prepare_pictures, random_pixels, rows_of, stored_image, write_pictures

# 100 samples in batches of 12: 8 steps an epoch.
TRAINING = ["trainer.max_epochs=2", "log_sample_ids=true", "augment=flip_crop", "checkpoint.every_steps=1", "seed=5"]

# Where nothing was decoded in preparation there are no statistics.
UNMEASURED = (torch.tensor([127.5] * 3), torch.tensor([127.5] * 3))

Fed = dict[int, list[tuple[torch.Tensor, torch.Tensor]]]


def look(*options: str) -> GlobalBatch:
    config: InspectConfig = compose("inspect", INSPECT_SCHEMAS, list(options))
    return inspect(config, given=[option.partition("=")[0] for option in options])


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Fed:
    """What a model in training gets, (inputs, labels) of each micro-batch, by finished steps after it."""
    record: Fed = {}
    training_step = ClassifierModule.training_step

    def spy(module: ClassifierModule, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs: list[torch.Tensor] = []
        hook = module.model.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
        loss = training_step(module, batch, batch_idx)
        hook.remove()
        record.setdefault(batch.step + 1, []).append((inputs[0], batch.labels_B.clone()))
        return loss

    monkeypatch.setattr(ClassifierModule, "training_step", spy)
    return record


def assert_shows(batch: GlobalBatch, data: DataSet, fed: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    statistics = data.statistics
    mean, std = (torch.tensor(statistics.mean), torch.tensor(statistics.std)) if statistics else UNMEASURED
    images_BHWC = torch.from_numpy(np.stack([sample.after_HWC for sample in batch.samples]))
    shown_BD = ((images_BHWC - mean) / std).flatten(1)
    assert torch.equal(shown_BD, torch.cat([inputs for inputs, _ in fed]))
    labels = torch.tensor([sample.labels[0] for sample in batch.samples])
    assert torch.equal(labels, torch.cat([labels for _, labels in fed]))


WINDOW = pytest.param(
    ["order=window", "batch.size=16"],
    marks=pytest.mark.skipif("order/window" not in TRAIN_SCHEMAS, reason="no option of training yet"),
)


@pytest.mark.parametrize("options", [[], ["batch.micro_size=5"], WINDOW])
@pytest.mark.slow
def test_every_step_shows_what_the_run_was_fed(
    synthetic: DataSet, tmp_path: Path, fed: Fed, options: list[str]
) -> None:
    run = tmp_path / "run"
    train_here(synthetic.root, run, *TRAINING, *options)
    for step, ids in sample_ids(run):
        batch = look(f"run={run}", f"step={step}")
        assert [sample.sample_id for sample in batch.samples] == ids
        assert [sample.slot for sample in batch.samples] == list(range(batch.num_slots))
        assert_shows(batch, synthetic, fed[step])


def test_of_packed_images_the_crop_that_was_made_on_the_device_is_shown(
    synthetic: DataSet, tmp_path: Path, fed: Fed
) -> None:
    run = tmp_path / "run"
    train_here(synthetic.root, run, "augment=resized_crop", "trainer.max_epochs=1", "seed=5")
    for step in sorted(fed):
        assert_shows(look(f"run={run}", f"step={step}"), synthetic, fed[step])


def test_under_mixup_each_images_share_in_its_blend_is_told(synthetic: DataSet, tmp_path: Path, fed: Fed) -> None:
    """Blended by hand with what is told, the images are what the model was fed."""
    run = tmp_path / "run"
    train_here(synthetic.root, run, "augment=flip_crop", "augment.mixup_alpha=0.8", "trainer.max_steps=2")
    batch = look(f"run={run}", "step=2")
    assert synthetic.statistics is not None
    mean, std = torch.tensor(synthetic.statistics.mean), torch.tensor(synthetic.statistics.std)
    pixels = [((torch.from_numpy(sample.after_HWC) - mean) / std).flatten() for sample in batch.samples]
    expected = [
        sample.own_frac * pixels[slot] + (1 - sample.own_frac) * pixels[slot ^ 1]
        for slot, sample in enumerate(batch.samples)
        if sample.own_frac is not None
    ]
    ((inputs, _),) = fed[2]
    torch.testing.assert_close(inputs, torch.stack(expected))
    assert (
        f"{batch.samples[3].own_frac:.0%} with slot 2" in tile_of(batch.samples[3], batch, is_untouched=False).lines[1]
    )


def test_of_encoded_images_the_whole_and_the_crop_that_was_trained_on_are_shown(tmp_path: Path, fed: Fed) -> None:
    """Before: the source's own PNG; after: what the decoder cut out of it for training."""
    pictures = write_pictures(tmp_path / "pictures", num_each=12, size=20)
    data = prepare_pictures(tmp_path / "pictures", tmp_path / "data", "layout=encoded", "source.val_frac=0.2")
    run = tmp_path / "run"
    train_here(data.root, run, "augment=resized_crop", "data.resolution=9", "batch.size=8", "trainer.max_epochs=2")
    for step in sorted(fed):
        batch = look(f"run={run}", f"step={step}")
        assert_shows(batch, data, fed[step])
        for sample in batch.samples:
            assert sample.before_HWC is not None
            assert np.array_equal(sample.before_HWC, pictures[sample.source_key])
            assert sample.after_HWC.shape == (9, 9, 3)


@pytest.mark.parametrize("layout", ["packed", "encoded"])
def test_at_a_url_the_same_is_shown_as_in_the_folder(tmp_path: Path, layout: str) -> None:
    """And no more is fetched than the shards of the slots that were asked for."""
    write_pictures(tmp_path / "pictures", num_each=12, size=20)
    options = [f"layout={layout}", "layout.shard_bytes=20000", "source.val_frac=0.2"]
    options += ["layout.resolution=8"] if layout == "packed" else []
    data = prepare_pictures(tmp_path / "pictures", tmp_path / "data", *options)
    typed = ["batch.size=8", "step=2", "slots=2:4"]
    with shard_server(data.root) as server:
        there = look(f"data.path={server.url}", f"cache.dir={tmp_path / 'cache'}", *typed)
    here = look(f"data.path={data.root}", *typed)
    for ours, theirs in zip(here.samples, there.samples, strict=True):
        assert (ours.shard, ours.record, ours.source_key) == (theirs.shard, theirs.record, theirs.source_key)
        assert np.array_equal(ours.after_HWC, theirs.after_HWC)
        assert (ours.before_HWC is None) == (layout == "packed")
        if ours.before_HWC is not None:
            assert theirs.before_HWC is not None
            assert np.array_equal(ours.before_HWC, theirs.before_HWC)
    fetched = {name for name in server.requests if name.endswith(".tar")}
    assert fetched == {f"train/{sample.shard}" for sample in here.samples}


def test_of_a_mixture_each_image_names_its_data_set(tmp_path: Path, fed: Fed) -> None:
    sets = []
    for name, seed in (("one", 0), ("two", 1)):
        options = ["source.samples=20", "source.val_samples=3", "source.classes=3", f"source.seed={seed}"]
        sets.append(make_synthetic(tmp_path / name, *options))
    run = tmp_path / "run"
    paths = f"data.paths=[{sets[0].root},{sets[1].root}]"
    train_here(sets[0].root, run, paths, "data.weights=[3,1]", "batch.size=8", "trainer.max_epochs=1")
    batch = look(f"run={run}", "step=2")
    assert_shows(batch, sets[0], fed[2])
    assert Counter(sample.shard.split("/")[0] for sample in batch.samples) == {"one": 6, "two": 2}


def test_a_resumed_run_is_shown_as_it_was_fed(synthetic: DataSet, tmp_path: Path, fed: Fed) -> None:
    run = tmp_path / "run"
    train_here(synthetic.root, run, *TRAINING)
    (run / SUMMARY_FILE).unlink()
    for step, path in stored_checkpoints(run / "checkpoints"):
        if step > 15:
            path.unlink()
    fed.clear()
    train_here(synthetic.root, run, *TRAINING)
    assert sorted(fed) == [16]
    assert_shows(look(f"run={run}", "step=16"), synthetic, fed[16])


def test_without_a_run_the_same_options_show_the_same_batch(synthetic: DataSet, tmp_path: Path, fed: Fed) -> None:
    train_here(synthetic.root, tmp_path / "run", *TRAINING)
    typed = [f"data.path={synthetic.root}", "batch.size=12", "seed=5", "augment=flip_crop"]
    assert_shows(look(*typed, "step=11"), synthetic, fed[11])
    # Beyond where that run ended there are batches too: an order has no end.
    assert len(look(*typed, "step=1000").samples) == 12


def test_captions_say_where_the_image_is_stored(synthetic: DataSet) -> None:
    stored = rows_of(synthetic, "train")
    batch = look(f"data.path={synthetic.root}", "batch.size=full", "step=2", "augment=flip_crop")
    assert sorted(sample.sample_id for sample in batch.samples) == list(range(len(stored)))
    assert synthetic.packed is not None
    for sample in batch.samples:
        path, row = stored[sample.sample_id]
        assert sample.shard == path.name
        assert sample.record == int(row["record_offset"]) // synthetic.packed.record_bytes
        assert (sample.labels, sample.source_key) == ((row["label"],), row["source_key"].decode())
        pixels = np.frombuffer(stored_image(path, row)[-synthetic.packed.pixel_bytes :], dtype=np.uint8)
        assert np.array_equal(sample.read_HWC.ravel(), pixels)


@pytest.mark.slow
def test_ranks_and_micro_batches_pick_the_slots_that_they_train_on(synthetic: DataSet) -> None:
    """12 slots on 2 ranks in micro-batches of 5, 2.5 a rank: 2, 2, 2 of each."""
    options = [f"data.path={synthetic.root}", "batch.size=12", "batch.micro_size=4", "step=3"]
    shown = look(*options, "ranks=2")
    assert [(sample.rank, sample.micro) for sample in shown.samples] == [
        (rank, micro) for rank in range(2) for micro in range(3) for _ in range(2)
    ]
    assert [sample.slot for sample in look(*options, "ranks=2", "rank=1").samples] == list(range(6, 12))
    assert [sample.slot for sample in look(*options, "ranks=2", "micro=2").samples] == [4, 5, 10, 11]
    assert [sample.slot for sample in look(*options, "ranks=2", "rank=1", "micro=0").samples] == [6, 7]
    assert [sample.slot for sample in look(*options, "slots=3:9", "images=4").samples] == [3, 4, 5, 6]
    lone = look(*options, "slots=7:8").samples[0]
    assert np.array_equal(lone.after_HWC, shown.samples[7].after_HWC)


def test_padding_is_marked(synthetic: DataSet) -> None:
    """100 samples on 3 ranks are padded to 102."""
    config = compose(
        "inspect", INSPECT_SCHEMAS, [f"data.path={synthetic.root}", "batch.size=full", "step=1", "ranks=3"]
    )
    batch = inspect(config)
    assert [sample.slot for sample in batch.samples if sample.is_padding] == [100, 101]
    assert table_of(config, batch).count("padding, weight 0") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run=RUN", "step=17"], "has 16 steps; 1 to 16 wanted"),
        (["run=RUN", "step=1", "seed=3"], "seed: is read from run="),
        (["run=RUN", "step=1", "order=full"], "order: is read from run="),
        (["run=RUN", "step=1", "data.path=OTHER"], "not what .* was trained on: data was"),
        (["run=RUN/none", "step=1"], "no config.yaml, so no run"),
        (["data.path=DATA", "step=0"], "step=0: at least 1 wanted"),
        (["data.path=DATA"], "step is needed"),
        (["data.path=DATA", "step=1", "batch.size=8", "ranks=3"], "does not divide by 3 ranks"),
        (["data.path=DATA", "step=1", "batch.size=8", "rank=1"], "rank=1: 0 to ranks - 1 wanted"),
        (["data.path=DATA", "step=1", "batch.size=8", "slots=8:"], "no such slots: the batch has 8"),
        (["data.path=DATA", "step=1", "batch.size=8", "slots=3"], "slots=3: first:end wanted"),
        (["data.path=DATA", "step=1", "batch.size=8", "micro=1"], "no such slots"),
        (["data.path=DATA", "step=1", "batch.sise=8"], "did you mean batch.size"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    synthetic: DataSet, finished_run: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    names = {"RUN": finished_run, "DATA": synthetic.root}
    if any("OTHER" in option for option in options):
        write_pictures(tmp_path / "pictures", num_each=12)
        prepare_pictures(tmp_path / "pictures", tmp_path / "other", "layout.resolution=8", "source.val_frac=0.2")
        names["OTHER"] = tmp_path / "other"
    for name, path in names.items():
        options = [option.replace(name, str(path)) for option in options]
    with pytest.raises(UserError, match=message) as caught:
        look(*options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def finished_run(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train_here(synthetic.root, run, "trainer.max_epochs=2")
    return run


def test_data_that_moved_can_be_named(synthetic: DataSet, finished_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(synthetic.root, moved)
    here, there = (look(f"run={finished_run}", "step=2", *extra) for extra in ([], [f"data.path={moved}"]))
    assert there.data_set.root == moved
    assert [sample.sample_id for sample in there.samples] == [sample.sample_id for sample in here.samples]


def test_the_command_writes_a_picture_and_a_table(
    synthetic: DataSet, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into the run's folder where none is named; the table has a line for each picture."""
    assert main([f"run={finished_run}", "step=2", "images=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["slot", "id", "label", "shard", "record", "source", "key"]
    assert len(lines) == 1 + 5 + 2
    assert lines[-1].endswith(str(finished_run / "step-2.png"))
    with Image.open(finished_run / "step-2.png") as picture:
        assert picture.format == "PNG"
    assert main([f"data.path={synthetic.root}", "batch.size=8", "step=2", f"out={tmp_path / 'x.png'}"]) == 0
    assert (tmp_path / "x.png").is_file()
    with pytest.raises(UserError, match=r"x\.png: cannot be written"):
        main([f"run={finished_run}", "step=2", f"out={tmp_path / 'nowhere' / 'x.png'}"])


def test_a_sheet_shows_pixels_as_squares_of_their_own_colour() -> None:
    """28 pixels are enlarged 4 times; the tile's corner is found by its first pixel's colour."""
    pixels = random_pixels(3, height=28, width=28)
    sheet = np.asarray(draw_sheet([Tile(pictures=(pixels,), lines=("a", "b"))], title="t"))
    enlarged = pixels.repeat(4, axis=0).repeat(4, axis=1)
    corners = np.argwhere((sheet[:, :, :] == pixels[0, 0]).all(axis=2))
    assert any(np.array_equal(sheet[y : y + 112, x : x + 112], enlarged) for y, x in corners.tolist())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (32, 32), (224, 224), (2000, 30), (30, 2000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_can_be_drawn(height: int, width: int, channels: int) -> None:
    pixels = random_pixels(1, height=height, width=width, channels=channels)
    tile = Tile(pictures=(pixels, pixels), lines=("class é 猫", "a/very/long/" * 30, ""))
    sheet = draw_sheet([tile] * 5, title="a title " * 50)
    assert max(sheet.size) < 5000
    lines = half_blocks(pixels, width=10)
    assert all(line.count("▀") == 10 for line in lines)


def test_half_blocks_hold_the_colours_of_two_rows() -> None:
    pixels = np.array([[[1, 2, 3]], [[4, 5, 6]]], dtype=np.uint8)
    assert half_blocks(pixels, width=1) == ["\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m"]


def test_the_terminal_is_drawn_on_when_asked(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    before = sorted(finished_run.iterdir())
    assert main([f"run={finished_run}", "step=3", "out=-", "images=3"]) == 0
    assert "▀\x1b[0m" in capsys.readouterr().out
    assert sorted(finished_run.iterdir()) == before
