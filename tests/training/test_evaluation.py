"""Evaluation beyond one look at each image: averages over random crops, and labels with several right answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import from_stored
from pipeline.data.crop import RandomCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.order import Slots
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.run_reading import read_config
from pipeline.training.scores import Scores, outputs_of, scores_of
from pipeline.training.several_answers import AnswerSums, answer_table, read_answers
from runs import ONE_RANK, run_ranks, train_here, weights_of
from synthetic_data import VAL_SAMPLES
from tiny_data import prepare_pictures, write_pictures

REAL_LABELS = Path(__file__).parents[3] / "shared" / "data" / "imagenet1k" / "meta" / "imagenet_real_labels.json"


@pytest.fixture(scope="module")
def run(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_here(synthetic.root, folder, "trainer.max_epochs=3")
    return folder


def evaluate_here(run: Path, *options: str) -> dict[str, float]:
    return evaluate(compose("evaluate", EVALUATE_SCHEMAS, [f"run={run}", "device=cpu", *options]), ONE_RANK)


def test_one_crop_of_the_whole_image_is_the_plain_evaluation(run: Path) -> None:
    plain = evaluate_here(run)
    whole = evaluate_here(run, "tta.crops=1", "tta.flip=false", "tta.least_area_frac=1")
    assert whole.pop("tta_crops") == 1
    assert whole["top1_frac"] == plain["top1_frac"]
    assert whole["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert json.loads((run / "evaluation.json").read_text())["loss"] == plain["loss"]
    assert json.loads((run / "evaluation-tta.json").read_text())["tta_crops"] == 1


def test_crops_are_averaged_as_probabilities(tmp_path: Path) -> None:
    """The oracle reads each crop of encoded images itself and averages softmaxes with numpy."""
    for split, number in (("train", 8), ("val", 5)):
        write_pictures(tmp_path / "in" / split, num_each=number, size=24)
    data_set = prepare_pictures(tmp_path / "in", tmp_path / "data", "layout=encoded")
    options = ["data.resolution=8", "augment=none", "batch.size=6", "trainer.max_epochs=3"]
    train_here(data_set.root, tmp_path / "run", *options)
    crops, per_pass, num_samples = 7, 4, 15
    found = evaluate_here(tmp_path / "run", f"tta.crops={crops}", f"slots_per_rank={per_pass}", "tta.seed=3")
    reader = EncodedReader(
        data_set, "val", size=(8, 8), crop=RandomCrop(seed=3, scale=(0.4, 1.0), ratio=(1.0, 1.0)), threads=1
    )
    assert data_set.statistics is not None
    mean, std = torch.tensor(data_set.statistics.mean), torch.tensor(data_set.statistics.std)
    model = build_model(from_stored(read_config(tmp_path / "run")).model, in_features=192, num_classes=3, seed=0)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights_of(tmp_path / "run").items()})
    hits, losses = 0, []
    for sample in range(num_samples):
        batch, slot = divmod(sample, per_pass)
        positions = np.array([(batch * crops + crop) * per_pass + slot for crop in range(crops)])
        ids = np.full(crops, sample)
        images = torch.empty((crops, 8, 8, 3), dtype=torch.uint8)
        slots = Slots(sample_ids=ids, positions=positions, weights=np.ones(crops, dtype=np.float32))
        label = int(reader.fill(slots, epoch=0, out=images)[0])
        logits = model(((images - mean) / std).flatten(1)).detach().double().numpy()
        odds = np.exp(logits)
        average = (odds / odds.sum(1, keepdims=True)).mean(0)
        hits += int(average.argmax()) == label
        losses.append(-np.log(average[label]))
    assert found["top1_frac"] == hits / num_samples
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_seed_decides_the_crops(run: Path) -> None:
    first, again, other = (evaluate_here(run, "tta.crops=3", f"tta.seed={seed}")["loss"] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.slow
def test_averages_over_crops_are_the_same_on_any_number_of_ranks(run: Path) -> None:
    """Each rank reads slots of its own, but a sample's crops are those of its place in the global batch."""
    results = []
    for ranks, per_rank in ((1, 6), (2, 3), (3, 2)):
        run_ranks(ranks, "pipeline.evaluate", f"run={run}", "device=cpu", "tta.crops=4", f"slots_per_rank={per_rank}")
        results.append(json.loads((run / "evaluation-tta.json").read_text()))
    assert results[0]["samples"] == VAL_SAMPLES
    for result in results[1:]:
        assert result["top1_frac"] == results[0]["top1_frac"]
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tta.crops=0", "tta.crops=0"),
        ("tta.least_area_frac=0", "tta.least_area_frac"),
        ("slots_per_rank=0", "slots_per_rank=0"),
        ("labels=nowhere.json", "labels=nowhere.json: cannot be read"),
    ],
)
def test_wrong_options_are_refused(run: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_here(run, option)


@pytest.mark.parametrize("scores", Scores)
def test_outputs_say_what_they_were_made_to_say(scores: Scores) -> None:
    logits = torch.randn(5, 4)
    probabilities = scores_of(logits, scores)
    torch.testing.assert_close(scores_of(outputs_of(probabilities, scores), scores), probabilities)
    edge = torch.tensor([[1.0, 0.0]])
    assert outputs_of(edge, scores).isfinite().all()


# ImageNet-ReaL

CLASS_IDS = [f"n{number:08d}" for number in np.random.default_rng(0).permutation(1000)]


def keys_of(numbers: list[int]) -> list[str]:
    return [f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]


def test_a_prediction_is_right_if_it_is_one_of_the_answers(tmp_path: Path) -> None:
    """Against the published rule in plain Python; classes of the data set stand in another order than real.json's."""
    random = np.random.default_rng(1)
    answers = [random.permutation(1000)[: random.integers(0, 4)].tolist() for _ in range(60)]
    (tmp_path / "real.json").write_text(json.dumps(answers))
    numbers = random.permutation(60) + 1
    table = answer_table(read_answers(tmp_path / "real.json"), keys_of(numbers.tolist()), class_ids=CLASS_IDS)
    sums = AnswerSums(table, torch.device("cpu"))
    hits = counted = 0
    for start in range(0, 60, 7):
        ids = np.arange(start, start + 7).clip(max=59)
        weights = (np.arange(start, start + 7) < 60).astype(np.float32)
        logits = random.normal(size=(7, 1000)).astype(np.float32)
        for row, sample in enumerate(ids):
            right = answers[numbers[sample] - 1]
            if row % 2 and right:  # else nothing would ever be right
                logits[row, CLASS_IDS.index(sorted(CLASS_IDS)[right[-1]])] = 99
            if weights[row] and right:
                counted += 1
                hits += sorted(CLASS_IDS).index(CLASS_IDS[int(logits[row].argmax())]) in right
        sums.add(torch.from_numpy(logits), ids, torch.from_numpy(weights))
    assert 0 < hits < counted < 60
    assert sums.read() == {"real_top1_frac": hits / counted, "real_samples": counted}


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "cannot be read"), ("{}", "a list of lists"), ("[[1000]]", "a list of lists"), ("[[true]]", "a list")],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / "real.json")


def test_other_images_and_other_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"has no image cat\.jpg"):
        answer_table([[1]], ["cat.jpg"], class_ids=CLASS_IDS)
    with pytest.raises(UserError, match=r"has no image .*00000002"):
        answer_table([[1]], keys_of([2]), class_ids=CLASS_IDS)
    with pytest.raises(UserError, match="1,000 classes"):
        answer_table([[1]], keys_of([1]), class_ids=CLASS_IDS[:9])


@pytest.mark.skipif(not REAL_LABELS.exists(), reason="ImageNet's labels are not here")
def test_the_published_labels_have_the_published_numbers() -> None:
    """50,000 images, 46,837 of them with an answer (the authors' reassessed_labels.json and their code's output)."""
    answers = read_answers(REAL_LABELS)
    table = answer_table(answers, keys_of(list(range(1, 50_001))), class_ids=sorted(CLASS_IDS))
    assert len(answers) == 50_000
    assert int((table[:, 0] >= 0).sum()) == 46_837
