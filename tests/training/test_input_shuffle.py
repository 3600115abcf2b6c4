"""The fixed shuffle of inputs: what it does to a model, to training, and to all that uses a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.export import export
from pipeline.export_config import EXPORT_SCHEMAS
from pipeline.model.input_shuffle import at_image_places, input_order
from pipeline.model.roles import linear_layers
from pipeline.model_config import (
    BottleneckMlpConfig,
    LogisticRegressionConfig,
    MlpConfig,
    ModelConfig,
    Norm,
    PerceptronConfig,
)
from pipeline.predict import find_images, predict
from pipeline.predict_config import PREDICT_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track import first_layer
from pipeline.trained import build_trained, open_trained
from runs import ONE_RANK, assert_equal_weights, run_ranks, train_here, weights_of
from test_runs import all_samples
from tiny_data import prepare_pictures, write_pictures

SEED, INPUTS, CLASSES = 5, 12, 3
CONFIGS: list[type[ModelConfig]] = [PerceptronConfig, LogisticRegressionConfig, MlpConfig, BottleneckMlpConfig]
SMALL_MLP = ["model=mlp", "model.hidden=[16]", "model.input_shuffle_seed=5", "schedule=constant"]


def built(config: ModelConfig) -> nn.Module:
    return build_model(config, in_features=INPUTS, num_classes=CLASSES, seed=0)


def test_the_order_of_a_seed_is_what_stored_models_rely_on() -> None:
    """It is stored nowhere: were another made of the same seed, every model trained with it would be lost."""
    assert input_order(12, seed=5).tolist() == [10, 9, 7, 5, 8, 0, 4, 6, 1, 3, 2, 11]
    assert input_order(8, seed=0).tolist() == [4, 2, 6, 1, 7, 5, 0, 3]


def test_every_input_has_every_place_equally_often_over_seeds() -> None:
    size, seeds = 6, 3000
    orders = np.array([input_order(size, seed=seed) for seed in range(seeds)])
    assert (np.sort(orders, axis=1) == np.arange(size)).all()
    counts = np.array([[(orders[:, place] == value).sum() for value in range(size)] for place in range(size)])
    # Binomial, 4.5 standard deviations; and no order is the one that all others are.
    assert abs(counts - seeds / size).max() < 4.5 * np.sqrt(seeds / size * (1 - 1 / size))
    assert len(np.unique(orders, axis=0)) > 0.97 * 720


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shuffled_model_is_the_same_model_of_inputs_in_another_order(config: type[ModelConfig]) -> None:
    plain, shuffled = built(config()), built(config(input_shuffle_seed=SEED))
    if config is PerceptronConfig:
        for model in (plain, shuffled):
            torch.manual_seed(1)
            nn.init.normal_(next(iter(linear_layers(model).values())).weight)
    inputs = torch.randn(9, INPUTS)
    order = torch.from_numpy(input_order(INPUTS, seed=SEED))
    assert torch.equal(shuffled(inputs), plain(inputs[:, order]))
    assert not torch.equal(shuffled(inputs), plain(inputs))
    assert [len(value) for value in plain.state_dict().values()] == [
        len(value) for value in shuffled.state_dict().values()
    ]


def test_shuffled_training_is_plain_training_from_weights_in_another_order() -> None:
    """The claim itself: steps of gradient descent commute with the shuffle, so the models stay one and the same."""
    config = MlpConfig(hidden=[16, 8], norm=Norm.layer)
    plain, shuffled = built(config).double(), built(MlpConfig(hidden=[16, 8], norm=Norm.layer, input_shuffle_seed=SEED))
    shuffled.double()
    with torch.no_grad():
        first = next(iter(linear_layers(plain).values()))
        first.weight.copy_(at_image_places(shuffled, first.weight))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (plain, shuffled)]
    inputs, labels = torch.randn(40, INPUTS, dtype=torch.float64), torch.randint(CLASSES, (40,))
    for _ in range(20):
        for model, optimizer in zip((plain, shuffled), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    torch.testing.assert_close(shuffled(inputs), plain(inputs), rtol=1e-9, atol=1e-9)
    (own, *_), (its, *_) = (list(linear_layers(model).values()) for model in (plain, shuffled))
    torch.testing.assert_close(at_image_places(shuffled, its.weight), own.weight, rtol=1e-9, atol=1e-9)


def test_weights_at_image_places_weigh_the_image_as_the_layer_does() -> None:
    shuffled = built(LogisticRegressionConfig(input_shuffle_seed=SEED))
    (layer,) = linear_layers(shuffled).values()
    inputs = torch.randn(4, INPUTS)
    placed = at_image_places(shuffled, layer.weight)
    torch.testing.assert_close(inputs @ placed.T + layer.bias, shuffled(inputs))
    assert torch.equal(at_image_places(built(LogisticRegressionConfig()), layer.weight), layer.weight)


def test_a_model_that_was_emptied_and_filled_again_has_its_order_still() -> None:
    """As it is for a sharded one, whose weights are drawn by one rank and handed on."""
    shuffled = built(MlpConfig(hidden=[4], input_shuffle_seed=SEED))
    inputs = torch.randn(3, INPUTS)
    expected, weights = shuffled(inputs), shuffled.state_dict()
    with torch.device("meta"):
        other = built(MlpConfig(hidden=[4], input_shuffle_seed=SEED))
    assert other(torch.empty(2, INPUTS, device="meta")).shape == (2, CLASSES)
    other.to_empty(device="cpu").load_state_dict(weights)
    assert torch.equal(other(inputs), expected)


@pytest.fixture(scope="module")
def run(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned a little of shuffled images."""
    folder = tmp_path_factory.mktemp("runs") / "shuffled"
    train_here(synthetic.root, folder, *SMALL_MLP, "trainer.max_epochs=3", "augment=flip_crop")
    return folder


def logits_of(run: Path, pixels_BD: torch.Tensor) -> torch.Tensor:
    """The oracle: the two layers by hand, on inputs put into order by hand."""
    weights = {name.removeprefix("model."): value for name, value in weights_of(run).items()}
    # The first layer of the model has no weights, so that of the numbers 1 and 2 have.
    assert sorted(weights) == ["1.linear.bias", "1.linear.weight", "2.bias", "2.weight"]
    ordered = pixels_BD[:, torch.from_numpy(input_order(pixels_BD.shape[1], seed=SEED))]
    hidden = (ordered @ weights["1.linear.weight"].T + weights["1.linear.bias"]).relu()
    return hidden @ weights["2.weight"].T + weights["2.bias"]


def test_evaluation_within_training_and_after_it_shuffles_too(run: Path, synthetic: DataSet) -> None:
    pixels, labels = all_samples(synthetic, "val")
    loss = nn.functional.cross_entropy(logits_of(run, pixels), labels).item()
    assert json.loads((run / "summary.json").read_text())["val/loss"] == pytest.approx(loss, rel=1e-5)
    found = evaluate(compose("evaluate", EVALUATE_SCHEMAS, [f"run={run}", "device=cpu"]), ONE_RANK)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "form", ["safetensors", *(pytest.param(form, marks=pytest.mark.slow) for form in ("torch_export", "onnx"))]
)
def test_exports_shuffle_too(run: Path, synthetic: DataSet, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    options = [f"run={run}", f"out={out}", f"format={form}", "normalise=false"]
    export(compose("export", EXPORT_SCHEMAS, options))
    pixels, _ = all_samples(synthetic, "val")
    match form:
        case "safetensors":
            with torch.no_grad():
                said = build_trained(open_trained(out, data_path="/nowhere"))(pixels)
        case "torch_export":
            said = torch.export.load(out / "model.pt2").module()(pixels)
        case _:
            import onnxruntime

            session = onnxruntime.InferenceSession(out / "model.onnx")
            said = torch.from_numpy(session.run(["logits"], {"input": pixels.numpy()})[0])
    torch.testing.assert_close(said, logits_of(run, pixels), rtol=1e-3, atol=1e-4)
    # Who takes the weights alone must put inputs into order; a program does it by itself.
    assert ("input_order(192, seed=5)" in (out / "README.md").read_text()) == (form == "safetensors")


def test_predictions_of_files_shuffle_too(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos" / "train", num_each=6)
    write_pictures(tmp_path / "photos" / "val", num_each=1, classes=("cat",))
    data = prepare_pictures(tmp_path / "photos", tmp_path / "data", "layout.resolution=8")
    train_here(data.root, tmp_path / "run", *SMALL_MLP, "batch.size=6", "augment=none", "trainer.max_epochs=2")
    options = [f"run={tmp_path / 'run'}", f"images=[{tmp_path / 'photos' / 'val'}]", "device=cpu"]
    config = compose("predict", PREDICT_SCHEMAS, options)
    (said,) = predict(open_trained(tmp_path / "run"), find_images(config.images), config)
    pixels, _ = all_samples(data, "val")
    expected = logits_of(tmp_path / "run", pixels).softmax(1)[0].tolist()
    assert dict(said.top) == pytest.approx(dict(enumerate(expected)), rel=1e-3)


def test_a_resumed_run_ends_with_the_same_weights(run: Path, synthetic: DataSet, tmp_path: Path) -> None:
    options = [*SMALL_MLP, "augment=flip_crop", "trainer.max_epochs=3"]
    train_here(synthetic.root, tmp_path / "cut", *options, "trainer.max_steps=11")
    train_here(synthetic.root, tmp_path / "cut", *options, "resume=true")
    assert_equal_weights(run, tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_train_the_model_of_one(run: Path, synthetic: DataSet, tmp_path: Path, strategy: str) -> None:
    options = [*SMALL_MLP, "augment=flip_crop", "trainer.max_epochs=3", "logger=none", "trainer.device=cpu"]
    same = ["batch.size=12", "optimizer.rate=0.01", f"trainer.strategy={strategy}", "trainer.measure_bound=false"]
    run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", *options, *same)
    for name, value in weights_of(run).items():
        torch.testing.assert_close(weights_of(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("model.input_shuffle_seed=6", "trained with model.input_shuffle_seed=5, 6 here"),
        ("model.input_shuffle_seed=null", "trained with model.input_shuffle_seed=5, null here"),
    ],
)
def test_weights_of_another_order_are_no_start(
    run: Path, synthetic: DataSet, tmp_path: Path, option: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train_here(synthetic.root, tmp_path / "other", *SMALL_MLP, option, f"init.run={run}")
    assert not (tmp_path / "other").exists()
    train_here(synthetic.root, tmp_path / "same", *SMALL_MLP, f"init.run={run}", "trainer.max_epochs=1")


def test_the_first_layer_is_drawn_as_the_image_has_it(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    original = first_layer.draw_units

    def seen(weights_UD: np.ndarray, *, image_shape: tuple[int, int, int]) -> tuple[bytes, float]:
        drawn.append(weights_UD.copy())
        return original(weights_UD, image_shape=image_shape)

    monkeypatch.setattr(first_layer, "draw_units", seen)
    options = ["model=logistic_regression", "model.input_shuffle_seed=5", "track.pictures=true", "trainer.max_epochs=1"]
    train_here(synthetic.root, tmp_path / "run", *options)
    last = weights_of(tmp_path / "run")["model.1.weight"].numpy()
    placed = np.empty_like(last)
    placed[:, input_order(last.shape[1], seed=SEED)] = last
    # Units are drawn largest first.
    assert sorted(map(tuple, drawn[-1].tolist())) == sorted(map(tuple, placed.tolist()))
