"""What real runs draw: the right samples, the inputs that the model saw, once each however often a run is killed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coco_data import CLASSES, make_coco
from forked import end_ranks, exit_codes, fork_ranks, wait_long
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet
from pipeline.track import eval_pictures, sample_pictures
from pipeline.track.contact_sheet import NARROW_TILE_WIDTH, draw_sheet, png_of
from pipeline.track.eval_pictures import tile_of
from pipeline.track.hardest import TopSample
from pipeline.track.media import Kind, MediaLog, Medium, read_media
from pipeline.track.sample_pictures import SeenInput
from pipeline.training.module import ClassifierModule
from pipeline.training.scores import Scores
from plain_evaluation import Evaluated, evaluate_plainly
from runs import SMALL, train_here
from synthetic_data import TRAIN_SAMPLES, VAL_SAMPLES
from tiny_data import prepare_pictures, rows_of, stored_image, write_pictures

LAST = 24
DRAWN = ["track.pictures=true", "track.gap=true"]
PLAIN = ["augment=none", "track.pictures=true", "trainer.max_epochs=3"]
OF_EVALUATIONS = ["val/confident_wrong", "val/confusion", "val/per_class", "val/worst"]


def media_of(run_dir: Path, name: str, kind: Kind) -> dict[int, Medium]:
    return {medium.step: medium for medium in read_media(run_dir) if (medium.name, medium.kind) == (name, kind)}


def shown(found: Evaluated, rows: np.ndarray) -> list[TopSample]:
    answers = found.shares.argmax(axis=1)
    return [
        TopSample(
            sample_id=int(found.ids[row]),
            labels=(int(found.labels[row]),),
            answer=int(answers[row]),
            confidence=float(found.shares[row, answers[row]]),
            loss=float(found.losses[row]),
            image_HWC=found.images[row],
        )
        for row in rows.tolist()
    ]


def assert_shows(picture: Medium, samples: list[TopSample], data: DataSet) -> None:
    """Assert that a picture is a sheet of these samples, pixel by pixel."""
    tiles = [tile_of(sample, classes=data.classes, scores=Scores.softmax) for sample in samples]
    expected = pixels_of(png_of(draw_sheet(tiles, title=picture.caption, min_tile_width=NARROW_TILE_WIDTH)))
    assert np.array_equal(pixels_of(picture.path.read_bytes()), expected)


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_pictures_show_the_samples_of_the_highest_loss_and_of_the_surest_wrong_answers(
    synthetic: DataSet, tmp_path: Path
) -> None:
    train_here(synthetic.root, tmp_path / "run", *PLAIN)
    found = evaluate_plainly(synthetic, "val", tmp_path / "run")
    answers = found.shares.argmax(axis=1)
    wrong = np.flatnonzero(answers != found.labels)
    expected = {
        "val/worst": np.argsort(-found.losses)[:24],
        "val/confident_wrong": wrong[np.argsort(-found.shares.max(axis=1)[wrong])][:24],
    }
    for name, rows in expected.items():
        pictures = media_of(tmp_path / "run", name, Kind.picture)
        assert sorted(pictures) == [8, 16, LAST]
        assert_shows(pictures[LAST], shown(found, rows), synthetic)


def test_the_tables_count_what_a_loop_over_samples_counts(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", *PLAIN)
    found = evaluate_plainly(synthetic, "val", tmp_path / "run")
    answers = found.shares.argmax(axis=1)
    columns, rows = media_of(tmp_path / "run", "val/per_class", Kind.table)[LAST].table()
    for row in (dict(zip(columns, row, strict=True)) for row in rows):
        of_class = np.flatnonzero(found.labels == synthetic.classes.index(row["class"]))
        assert row["samples"] == len(of_class)
        assert row["top1_frac"] == pytest.approx((answers[of_class] == found.labels[of_class]).mean())
        taken = np.bincount(answers[of_class][answers[of_class] != found.labels[of_class]], minlength=7)
        assert row["most_taken_for"] == (synthetic.classes[taken.argmax()] if taken.any() else None)
    assert sum(row[columns.index("samples")] for row in rows) == VAL_SAMPLES
    columns, rows = media_of(tmp_path / "run", "val/confusion", Kind.table)[LAST].table()
    pairs = {(synthetic.classes.index(row[0]), synthetic.classes.index(row[1])): row[2] for row in rows}
    wrong = [(int(label), int(answer)) for label, answer in zip(found.labels, answers, strict=True) if label != answer]
    assert pairs == {pair: wrong.count(pair) for pair in wrong}
    picture = pixels_of(media_of(tmp_path / "run", "val/confusion", Kind.picture)[LAST].path.read_bytes())
    assert picture.shape[2] == 3


def seen_by(monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], list[SeenInput]]:
    """Lists that fill with what the model is given in training, and with what is drawn of it."""
    given: list[torch.Tensor] = []
    drawn: list[SeenInput] = []
    step, draw = ClassifierModule.training_step, sample_pictures.draw_inputs

    def training_step(self: ClassifierModule, batch: Any, batch_idx: int) -> torch.Tensor:
        hook = self.model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].detach().clone()))
        try:
            return step(self, batch, batch_idx)
        finally:
            hook.remove()

    def draw_inputs(inputs: list[SeenInput], **named: Any) -> tuple[bytes, str]:
        drawn.extend(inputs)
        return draw(inputs, **named)

    monkeypatch.setattr(ClassifierModule, "training_step", training_step)
    monkeypatch.setattr(sample_pictures, "draw_inputs", draw_inputs)
    return given, drawn


def check_inputs(data: DataSet, given: torch.Tensor, drawn: list[SeenInput]) -> None:
    """Assert that what is drawn as seen is what the model was given in its first step."""
    assert data.statistics is not None
    shape = (len(given), *drawn[0].seen_HWC.shape)
    pixels = given.view(shape).double().numpy() * np.array(data.statistics.std) + np.array(data.statistics.mean)
    assert len(drawn) == len(given)
    for row, one in enumerate(drawn):
        assert np.abs(pixels[row] - one.seen_HWC).max() <= 0.51


@pytest.mark.parametrize("mixup", ["0.4", "null"])
def test_the_augmented_picture_shows_what_the_model_is_given_and_the_stored_images(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixup: str
) -> None:
    given, drawn = seen_by(monkeypatch)
    options = [*DRAWN, "augment=flip_crop", f"augment.mixup_alpha={mixup}", "trainer.max_epochs=1"]
    train_here(synthetic.root, tmp_path / "run", *options)
    check_inputs(synthetic, given[0], drawn)
    stored = rows_of(synthetic, "train")
    for one in drawn:
        shard, row = stored[one.sample_id]
        image = np.asarray(Image.open(io.BytesIO(stored_image(shard, row))))
        assert np.array_equal(one.before_HWC, image)
        assert one.labels == (int(row["label"]),)
    assert any(not np.array_equal(one.before_HWC, one.seen_HWC) for one in drawn)
    assert all((one.own_frac is None) == (mixup == "null") for one in drawn)
    (picture,) = media_of(tmp_path / "run", "data/augmented", Kind.picture).values()
    assert picture.step == 1


def test_of_images_that_a_decoder_crops_the_whole_ones_are_beside_what_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "root", num_each=20, size=8)
    options = ("layout=encoded", "source.val_frac=0.2")
    data = prepare_pictures(tmp_path / "root", tmp_path / "set", *options)
    given, drawn = seen_by(monkeypatch)
    options = (*DRAWN, "data.resolution=8", "augment=resized_crop", "trainer.max_epochs=2", "data.decode_threads=1")
    summary = train_here(data.root, tmp_path / "run", *options)
    stored = rows_of(data, "train")
    for one in drawn:
        shard, row = stored[one.sample_id]
        image = np.asarray(Image.open(io.BytesIO(stored_image(shard, row))).convert("RGB"))
        assert np.array_equal(one.before_HWC, image)
    assert any(not np.array_equal(one.before_HWC, one.seen_HWC) for one in drawn)
    assert len(given[0]) == len(drawn)
    assert "gap/loss" in summary


def test_of_several_labels_there_are_pictures_and_average_precision(tmp_path: Path) -> None:
    # Small shards and batches: their samples have at most two labels, or three, or four.
    data, _ = make_coco(tmp_path, "layout.shard_bytes=8000")
    shards = data.split("val").shards
    widths = {read_index(s.index_path, num_samples=s.num_samples)["labels"].shape[1] for s in shards}
    assert len(widths) > 1
    options = [*DRAWN, "objective=binary_cross_entropy", "augment=none", "trainer.max_epochs=2"]
    options.append("evaluation.slots_per_rank=4")
    summary = train_here(data.root, tmp_path / "run", *options)
    names = {medium.name for medium in read_media(tmp_path / "run")}
    assert {"val/worst", "val/confident_wrong", "val/per_class", "data/augmented"} <= names
    assert "val/confusion" not in names
    columns, rows = media_of(tmp_path / "run", "val/per_class", Kind.table)[summary["steps"]].table()
    assert {row[0] for row in rows} == set(CLASSES)
    precisions = [row[columns.index("average_precision_frac")] for row in rows]
    assert precisions == sorted(precisions)
    assert np.mean(precisions) == pytest.approx(summary["val/map_frac"])


def test_a_stream_is_drawn_too_and_has_no_gap(synthetic: DataSet, tmp_path: Path) -> None:
    """Packed shards are tars of images and labels, so that they can be read as a stream."""
    splits = {}
    for split in ("train", "val"):
        paths = [shard.path for shard in synthetic.split(split).shards]
        splits[split] = f"{paths[0].parent}/shard-{{000000..{len(paths) - 1:06d}}}.tar"
    options = [
        *(f'data.stream="{splits["train"]}"', f'data.val_stream="{splits["val"]}"', "data.stream_classes=7"),
        *(f"data.stream_samples_per_epoch={TRAIN_SAMPLES}", f"data.val_stream_samples={VAL_SAMPLES}"),
        *("data.resolution=8", "trainer.max_epochs=1", *DRAWN),
    ]
    summary = train_here(synthetic.root, tmp_path / "run", *options)
    assert "gap/loss" not in summary
    assert {"data/augmented", *OF_EVALUATIONS} <= {medium.name for medium in read_media(tmp_path / "run")}
    (picture,) = media_of(tmp_path / "run", "data/augmented", Kind.picture).values()
    assert "as it was cut out in reading" in picture.caption
    _, rows = media_of(tmp_path / "run", "val/per_class", Kind.table)[summary["steps"]].table()
    assert sum(row[1] for row in rows) == VAL_SAMPLES


def test_a_run_that_was_killed_between_its_last_step_and_its_end_lists_everything_once(
    synthetic: DataSet, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    summary = train_here(synthetic.root, run_dir, *PLAIN, "track.gap=true")
    records = {name: (run_dir / name).read_text().splitlines() for name in ("media.jsonl", "metrics.jsonl")}
    (run_dir / "summary.json").unlink()
    again = train_here(synthetic.root, run_dir, *PLAIN, "track.gap=true")
    assert again["gap/loss"] == summary["gap/loss"]
    for name, lines in records.items():
        assert (run_dir / name).read_text().splitlines() == lines


def test_of_several_rows_of_one_name_and_step_the_last_counts(tmp_path: Path) -> None:
    for caption in ("old", "new"):
        log = MediaLog(tmp_path, resume_step=5)
        log.picture(step=5, name="a/b", png=caption.encode(), caption=caption)
        log.close()
    assert [(medium.caption, medium.path.read_bytes()) for medium in read_media(tmp_path)] == [("new", b"new")]


def test_pictures_are_off_where_they_are_not_wanted(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", *PLAIN[:1], "track.pictures=false", "trainer.max_epochs=1")
    assert not {"data/augmented", *OF_EVALUATIONS} & {medium.name for medium in read_media(tmp_path / "run")}


def test_a_picture_that_fails_is_left_out_with_a_warning_and_the_run_ends_well(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(*_: Any, **__: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(eval_pictures, "draw_sheet", draw)
    summary = train_here(synthetic.root, tmp_path / "run", *PLAIN)
    assert "val/loss" in summary
    names = {medium.name for medium in read_media(tmp_path / "run")}
    assert "val/worst" not in names
    assert "val/per_class" in names
    assert any("no ink" in record.message for record in caplog.records)


def listed(run_dir: Path) -> list[tuple[int, str, str, bytes]]:
    """What a run has drawn, in the order of its steps, but for what other parts draw."""
    wanted = ["data/augmented", *OF_EVALUATIONS]
    media = [medium for medium in read_media(run_dir) if medium.name in wanted]
    return sorted((medium.step, medium.name, medium.kind.value, medium.path.read_bytes()) for medium in media)


@pytest.mark.slow
def test_a_run_that_is_killed_and_goes_on_has_each_picture_once(synthetic: DataSet, tmp_path: Path) -> None:
    options = [f"data.path={synthetic.root}", *SMALL, *DRAWN, "trainer.max_epochs=12", "checkpoint.every_steps=3"]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert exit_codes(fork_ranks(1, log, f"run_dir={whole}", *options)) == [0], log.read_text()
    for steps in (8, 40):
        ranks = fork_ranks(1, log, f"run_dir={killed}", *options)
        wait_long(
            lambda ranks=ranks, steps=steps: (
                any(step >= steps for step, name, *_ in listed_now(killed) if name == "val/worst")
                or not ranks[0].is_alive()
            ),
            what=f"a picture of step {steps}",
        )
        assert ranks[0].is_alive(), log.read_text()
        ranks[0].kill()
        end_ranks(ranks)
    assert exit_codes(fork_ranks(1, log, f"run_dir={killed}", *options)) == [0], log.read_text()
    assert [row[:3] for row in listed(killed)] == [row[:3] for row in listed(whole)]
    assert listed(killed) == listed(whole)
    lines = (killed / "media.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))


def listed_now(run_dir: Path) -> list[tuple[int, str]]:
    """Step and name of what is listed, while the run may be cutting it."""
    try:
        rows = [json.loads(line) for line in (run_dir / "media.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [(row["step"], row["name"]) for row in rows]


@pytest.mark.slow
def test_two_ranks_draw_once_and_count_every_sample_once(synthetic: DataSet, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    options = [f"data.path={synthetic.root}", f"run_dir={run_dir}", *SMALL, *PLAIN, "evaluation.slots_per_rank=4"]
    assert exit_codes(fork_ranks(2, log, *options)) == [0, 0], log.read_text()
    found = evaluate_plainly(synthetic, "val", run_dir)
    pictures = media_of(run_dir, "val/worst", Kind.picture)
    assert sorted(pictures) == [8, 16, LAST]
    assert_shows(pictures[LAST], shown(found, np.argsort(-found.losses)[:24]), synthetic)
    _, rows = media_of(run_dir, "val/confusion", Kind.table)[LAST].table()
    assert sum(row[2] for row in rows) == (found.shares.argmax(axis=1) != found.labels).sum()
