"""Exports: each format says what the run's model says, read back by the reader that its users have."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import export as export_command
from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.config import from_stored
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.export import compare, export
from pipeline.export_config import EXPORT_SCHEMAS
from pipeline.model_card import card_of
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.run_reading import read_config
from pipeline.trained import build_trained, open_trained
from runs import ONE_RANK, train_here, weights_of
from synthetic_data import VAL_SAMPLES
from test_runs import all_samples

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; pip install 'tarmac[export]'"
)
MODELS = {
    "mlp": ["model=mlp", "model.hidden=[16]", "model.norm=batch", "model.dropout=0.1"],
    "bottleneck": ["model=bottleneck_mlp", "model.width=8", "model.depth=2"],
}


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / request.param
    train_here(synthetic.root, folder, *MODELS[request.param], "trainer.max_epochs=2")
    return folder


def export_here(run: Path, out: Path, *options: str) -> export_command.Found:
    return export(compose("export", EXPORT_SCHEMAS, [f"run={run}", f"out={out}", *options]))


def images_and_logits(run: Path, data: DataSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The oracle: the validation images, their normalised pixels, and what the checkpoint's model says of them."""
    pixels, _ = all_samples(data, "val")
    assert data.statistics is not None
    mean, std = torch.tensor(data.statistics.mean), torch.tensor(data.statistics.std)
    images = (pixels.view(-1, 8, 8, 3) * std + mean).round().to(torch.uint8)
    model = build_model(from_stored(read_config(run)).model, in_features=192, num_classes=7, seed=0).eval()
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights_of(run).items()})
    with torch.no_grad():
        return images, pixels, model(pixels)


def test_safetensors_hold_the_very_weights_and_are_enough_to_go_on_without_run_and_data(
    run: Path, synthetic: DataSet, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    found = export_here(run, tmp_path / "out")
    assert (found.largest_difference, found.agreeing) == (0.0, VAL_SAMPLES)
    weights = {name.removeprefix("model."): value for name, value in weights_of(run).items()}
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)
    again = open_trained(tmp_path / "out", data_path="/nowhere")
    assert again.facts == open_trained(run).facts
    _, pixels, expected = images_and_logits(run, synthetic)
    with torch.no_grad():
        assert torch.equal(build_trained(again)(pixels), expected)


@pytest.mark.slow
def test_torch_export_runs_without_our_code_on_any_number_of_images(
    run: Path, synthetic: DataSet, tmp_path: Path
) -> None:
    export_here(run, tmp_path / "out", "format=torch_export")
    images, _, expected = images_and_logits(run, synthetic)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for rows in (1, 3, VAL_SAMPLES):
        torch.testing.assert_close(program(images[:rows]), expected[:rows], rtol=1e-4, atol=1e-5)


def test_without_normalisation_the_program_takes_normalised_pixels(
    run: Path, synthetic: DataSet, tmp_path: Path
) -> None:
    export_here(run, tmp_path / "out", "format=torch_export", "normalise=false")
    _, pixels, expected = images_and_logits(run, synthetic)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    torch.testing.assert_close(program(pixels[:5]), expected[:5], rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["true", "false"])
def test_onnx_says_the_same_in_onnx_runtime(run: Path, synthetic: DataSet, tmp_path: Path, normalise: str) -> None:
    import onnx
    import onnxruntime

    export_here(run, tmp_path / "out", "format=onnx", f"normalise={normalise}")
    path = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    images, pixels, expected = images_and_logits(run, synthetic)
    inputs = (images if normalise == "true" else pixels).numpy()
    session = onnxruntime.InferenceSession(path)
    for rows in (1, 3, VAL_SAMPLES):
        (logits,) = session.run(["logits"], {"input": inputs[:rows]})
        np.testing.assert_allclose(logits, expected[:rows].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not MISSING, reason="the packages are installed")
def test_onnx_without_its_packages_says_what_to_install(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not installed: pip install 'tarmac\[export\]'"):
        export_here(run, tmp_path / "out", "format=onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_written_model_that_says_something_else_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exporter would that rounds, or forgets a layer."""
    real = export_command.write_torch_export

    def wrong(model: torch.nn.Module, example: torch.Tensor, path: Path) -> object:
        with torch.no_grad():
            next(iter(model.parameters())).view(-1)[0] += 0.5
        return real(model, example, path)

    monkeypatch.setattr(export_command, "write_torch_export", wrong)
    with pytest.raises(UserError, match=r"says something else than the run's: .* nothing was published"):
        export_here(run, tmp_path / "out", "format=torch_export")
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_no_numbers_never_agree() -> None:
    numbers, none = torch.ones(2, 3), torch.full((2, 3), float("nan"))
    assert compare(numbers, none).largest_difference == float("inf")


def test_a_folder_that_is_there_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        export_here(run, tmp_path / "out")


def test_the_facts_and_the_card_are_beside_the_model(run: Path, synthetic: DataSet, tmp_path: Path) -> None:
    export_here(run, tmp_path / "out", "samples=5", "format=torch_export")
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert facts["classes"] == list(synthetic.classes)
    assert facts["image_shape"] == [8, 8, 3]
    assert facts["takes"] == "uint8 images (B, H, W, C)"
    assert facts["check"]["samples"] == facts["check"]["agreeing"] == 5
    assert facts["step"] == 16
    card = (tmp_path / "out" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert f"| top1\\_frac | {summary['val/top1_frac']:.4f} |" in card
    assert 'torch.export.load("model.pt2")' in card
    assert all(f"## {name}" in card for name in ("Data", "Numbers", "Training", "Use", "What is not known", "Config"))


def test_the_card_tells_numbers_with_what_they_were_measured_on(run: Path, synthetic: DataSet) -> None:
    """And no number that was not measured; names of classes are text, whatever is in them."""
    for options in ([], ["tta.crops=3"]):
        evaluate(compose("evaluate", EVALUATE_SCHEMAS, [f"run={run}", "device=cpu", *options]), ONE_RANK)
    card = card_of(open_trained(run))
    assert f"evaluated on {synthetic.name}/val, averaged over 3 crops" in card
    assert card.count(f"{synthetic.name}/val") == 3
    trained = open_trained(run)
    odd = dataclasses.replace(trained.facts, classes=("a|b", "<c>", "# d", "e", "f", "g", "h"))
    text = card_of(dataclasses.replace(trained, facts=odd, folder=run))
    assert "a\\|b; \\<c\\>; \\# d" in text


def test_a_run_that_has_not_ended_has_no_numbers(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for name in ("summary.json", "evaluation.json", "evaluation-tta.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    assert "None: the run has not ended, and was not evaluated." in card_of(open_trained(tmp_path / "run"))


def test_the_averaged_weights_are_exported_where_a_run_keeps_them(synthetic: DataSet, tmp_path: Path) -> None:
    """They are what evaluation measures."""
    train_here(synthetic.root, tmp_path / "run", "ema.decay=0.9", "optimizer.rate=0.1", "trainer.max_epochs=2")
    export_here(tmp_path / "run", tmp_path / "out")
    exported = open_trained(tmp_path / "out").weights
    raw = {name.removeprefix("model."): value for name, value in weights_of(tmp_path / "run").items()}
    assert not any(torch.equal(exported[name], raw[name]) for name in raw)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    pixels, labels = all_samples(synthetic, "val")
    logits = build_trained(open_trained(tmp_path / "out"))(pixels)
    assert (logits.argmax(1) == labels).double().mean().item() == summary["val/top1_frac"]


def test_training_starts_from_an_export_as_from_its_run(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    export_here(tmp_path / "run", tmp_path / "out")
    for name in ("run", "out"):
        options = [f"init.run={tmp_path / name}", "init.head=keep", "trainer.max_epochs=1"]
        train_here(synthetic.root, tmp_path / f"from_{name}", *options)
    first, second = weights_of(tmp_path / "from_run"), weights_of(tmp_path / "from_out")
    assert all(torch.equal(first[name], second[name]) for name in first)
