"""The perceptron against loops that follow the published rules, and on training's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from pipeline.build_model import build_model
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.model.perceptron import perceptron
from pipeline.model_config import PerceptronConfig
from pipeline.shards.manifest import DataSet
from pipeline.training.objective import cross_entropy, mean_squared_error
from runs import sample_ids, train_here, weights_of
from synthetic_data import TRAIN_SAMPLES

Array = npt.NDArray[np.float64]


def blobs(
    seed: int, *, num_classes: int, num_samples: int = 60, noise: float = 0.3
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return clouds of samples round the corners of a simplex: little noise lets hyperplanes separate them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_samples)
    centres = 3 * np.eye(num_classes, 5)
    return centres[labels] + noise * generator.normal(size=(num_samples, 5)), labels


def kesler(samples: Array, labels: npt.NDArray[np.int64], *, num_classes: int, passes: int) -> tuple[Array, list[int]]:
    """The oracle: the multi-class rule, sample by sample; weights with the bias last, and the mistakes of each pass."""
    extended = np.hstack([samples, np.ones((len(samples), 1))])
    weights, mistakes = np.zeros((num_classes, extended.shape[1])), []
    for _ in range(passes):
        mistakes.append(0)
        for x, y in zip(extended, labels, strict=True):
            taken_for = int(np.argmax(weights @ x))
            if taken_for != y:
                weights[y] += x
                weights[taken_for] -= x
                mistakes[-1] += 1
    return weights, mistakes


def train_alone(
    samples: Array, labels: npt.NDArray[np.int64], *, num_classes: int, passes: int, objective: str, rate: float
) -> Array:
    """Return the weights of our model after stochastic gradient descent, sample by sample."""
    model = perceptron(in_features=samples.shape[1], num_classes=num_classes).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(passes):
        for x, y in zip(torch.from_numpy(samples), torch.from_numpy(labels), strict=True):
            optimizer.zero_grad()
            outputs = model(x[None])
            if objective == "mse":
                loss = (outputs - functional.one_hot(y[None], num_classes)).square().mean()
            else:
                loss = functional.cross_entropy(outputs, y[None])
            loss.backward()
            optimizer.step()
    return np.hstack([model[0].weight.detach().numpy(), model[0].bias.detach().numpy()[:, None]])


@pytest.mark.parametrize("rate", [0.01, 1.0])
@pytest.mark.parametrize("objective", ["mse", "cross_entropy"])
def test_training_is_keslers_rule_times_a_constant_for_either_objective_and_any_rate(
    objective: str, rate: float
) -> None:
    samples, labels = blobs(1, num_classes=4, noise=2.0)
    expected, mistakes = kesler(samples, labels, num_classes=4, passes=3)
    assert sum(mistakes) > 10
    weights = train_alone(samples, labels, num_classes=4, passes=3, objective=objective, rate=rate)
    # mean of squares over K: derivative 2/K; cross-entropy on 0 and 1: 1 - 1/(e + K - 1).
    step = rate * (2 / 4 if objective == "mse" else 1 - 1 / (np.e + 3))
    np.testing.assert_allclose(weights, step * expected, rtol=1e-9, atol=1e-12)


def test_with_two_classes_it_is_rosenblatts_rule() -> None:
    samples, labels = blobs(2, num_classes=2, noise=2.0)
    signs = 2 * labels - 1
    extended = np.hstack([samples, np.ones((len(samples), 1))])
    w, mistakes = np.zeros(extended.shape[1]), 0
    for _ in range(4):
        for x, sign in zip(extended, signs, strict=True):
            # At a tie the first class, -1, is taken.
            if (1 if w @ x > 0 else -1) != sign:
                w, mistakes = w + sign * x, mistakes + 1
    assert mistakes > 3
    weights = train_alone(samples, labels, num_classes=2, passes=4, objective="mse", rate=1.0)
    # Both weight vectors move by x: their difference moves by 2x.
    np.testing.assert_allclose(weights[1] - weights[0], 2 * w, rtol=1e-9, atol=1e-12)


def test_it_ends_without_mistakes_on_what_can_be_separated() -> None:
    samples, labels = blobs(3, num_classes=4)
    assert kesler(samples, labels, num_classes=4, passes=20)[1][-1] == 0
    weights = train_alone(samples, labels, num_classes=4, passes=20, objective="cross_entropy", rate=0.1)
    sums = np.hstack([samples, np.ones((len(samples), 1))]) @ weights.T
    assert (sums.argmax(1) == labels).all()


def test_one_unit_fires_and_what_is_recognised_or_weighs_nothing_moves_nothing() -> None:
    torch.manual_seed(0)
    model = perceptron(in_features=3, num_classes=4)
    torch.nn.init.normal_(model[0].weight)
    inputs = torch.randn(20, 3)
    outputs = model(inputs)
    assert torch.equal(outputs.detach(), functional.one_hot(model[0](inputs).argmax(1), 4).float())
    with torch.no_grad():
        assert torch.equal(model(inputs), outputs)
    labels = outputs.argmax(1)
    for objective in (cross_entropy, mean_squared_error):
        model.zero_grad()
        objective(model(inputs), labels).sum().backward()
        assert model[0].weight.grad.count_nonzero() == 0
        model.zero_grad()
        (objective(model(inputs), (labels + 1) % 4) * torch.zeros(20)).sum().backward()
        assert model[0].weight.grad.count_nonzero() == 0


@pytest.mark.parametrize("objective", ["mse", "cross_entropy"])
def test_on_trainings_own_path_it_makes_the_same_moves(synthetic: DataSet, tmp_path: Path, objective: str) -> None:
    options = ["model=perceptron", "optimizer=sgd", "optimizer.momentum=0", "augment=none", "schedule=constant"]
    options += [f"objective={objective}", "batch.size=1", "log_sample_ids=true", "trainer.max_epochs=1"]
    train_here(synthetic.root, tmp_path / "run", *options)
    ids = [step_ids[0] for _, step_ids in sample_ids(tmp_path / "run")]
    assert sorted(ids) == list(range(TRAIN_SAMPLES))
    samples, labels = all_pixels(synthetic)
    expected, mistakes = kesler(samples[ids], labels[ids], num_classes=7, passes=1)
    assert mistakes[0] > 10
    state = weights_of(tmp_path / "run")
    weights = np.hstack([state["model.0.weight"].numpy(), state["model.0.bias"].numpy()[:, None]])
    step = 0.01 * (2 / 7 if objective == "mse" else 1 - 1 / (np.e + 6))
    np.testing.assert_allclose(weights, step * expected, rtol=1e-3, atol=1e-4)


def all_pixels(data: DataSet) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return normalised pixels (N, D) and labels of the training split."""
    reader = PackedReader(data, "train")
    ids = np.arange(reader.num_samples)
    images = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
    labels = reader.fill(slots_of(ids), epoch=0, out=images)
    assert data.statistics is not None
    pixels = (images.numpy() - np.array(data.statistics.mean)) / np.array(data.statistics.std)
    return pixels.reshape(len(ids), -1), labels


def test_it_starts_at_zero_whatever_the_seed() -> None:
    model = build_model(PerceptronConfig(), in_features=4, num_classes=3, seed=5)
    assert all(parameter.count_nonzero() == 0 for parameter in model.parameters())
