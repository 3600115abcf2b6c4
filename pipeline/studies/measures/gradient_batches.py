"""Gradients of single samples, and of the batches that can be drawn from them, against the gradient of all samples.

    gradients_NP = sample_gradients(model, pixels_ND, labels_N)
    drawn = batch_errors(gradients_NP, draw_as_trained(...))        # what batches of one size really give
    exact = exact_noise(model, pixels_ND, labels_N)                 # |G|^2 and tr(Sigma), of the N samples

A batch's gradient is the mean of its samples' gradients, so one matrix tells every batch that there could be. Drawn
independently, with replacement, B samples have E|g_B - G|^2 = tr(Sigma) / B. Without replacement, as an epoch's
batches are, the error is smaller by (N - B) / (N - 1), the correction for finite populations (Cochran 1977, "Sampling
techniques", theorem 2.2): the batch of all N samples has none.

Axes: N samples, P parameters of the model, M batches drawn, B samples of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pipeline.data.order import FullOrder
from pipeline.training.objective import cross_entropy
from pipeline.training.part_gradients import SampleNorms

# Beyond so many standard errors from 0 lies one in twenty of values that are normal around 0.
Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactNoise:
    """Of a set of samples at some weights: the squared length of its gradient, and the samples' variance about it.

    Attributes:
        signal_sq: |G|^2.
        trace: tr(Sigma), with Sigma the covariance of one sample's gradient, the N samples being all there are.
    """

    signal_sq: float
    trace: float

    @property
    def images(self) -> float:
        """B_simple, the batch at which noise and signal are equal (McCandlish et al. 2018, arXiv 1812.06162)."""
        return self.trace / self.signal_sq

    def cosine(self, error_share: float) -> float:
        """The cosine with G of a batch as long as most, whose squared error is this share of tr(Sigma)."""
        return float((1 + self.images * error_share) ** -0.5)

    def of_population(self, num_samples: int) -> ExactNoise:
        """Return what the N samples tell, without bias, of all that could have been drawn in their place.

        It is also what batches drawn without replacement tell on average where they are taken for independent draws.
        """
        return ExactNoise(
            signal_sq=self.signal_sq - self.trace / (num_samples - 1),
            trace=self.trace * num_samples / (num_samples - 1),
        )


def left_to_draw(size: int, num_samples: int) -> float:
    """Return the correction for finite populations, (N - B) / (N - 1)."""
    return (num_samples - size) / (num_samples - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchErrors:
    """M batches of one size against the gradient of all samples.

    Attributes:
        error_sq: mean of |g_B - G|^2.
        cosine: mean of the cosine of g_B and G.
        beyond_frac: share of the parameters whose mean error is more than Z_95 of its standard errors from 0; about
            0.05 if every mean is 0. Parameters whose gradient is the same in all batches do not count.
    """

    error_sq: float
    cosine: float
    beyond_frac: float


def sample_gradients(model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each sample's cross-entropy by all parameters in the model's order, float32 (N, P)."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss_of(weights: dict[str, torch.Tensor], pixels_D: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits_BK = functional_call(model, weights, (pixels_D[None],))
        return cross_entropy(logits_BK, label[None])[0]

    gradients = vmap(grad(loss_of), in_dims=(None, 0, 0))(parameters, pixels_ND, labels_N)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def exact_noise(model: nn.Module, pixels_ND: torch.Tensor, labels_N: torch.Tensor) -> ExactNoise:
    """Return what `sample_gradients` would tell of these samples, by one pass that keeps no gradient of a sample."""
    norms = SampleNorms(model)
    norms.start()
    losses_N = cross_entropy(model(pixels_ND), labels_N)
    gradients = torch.autograd.grad(losses_N.sum(), [*model.parameters()])
    norms.add_pass(torch.ones(len(labels_N)))
    mean_sq = float(norms.stop()[0]) / len(labels_N)
    signal_sq = sum(float((gradient / len(labels_N)).square().sum()) for gradient in gradients)
    return ExactNoise(signal_sq=signal_sq, trace=mean_sq - signal_sq)


def draw_independent(*, num_samples: int, size: int, num_draws: int, seed: int) -> torch.Tensor:
    """Return int64 (M, B), samples drawn with replacement."""
    rng = np.random.default_rng((seed, size))
    return torch.from_numpy(rng.integers(num_samples, size=(num_draws, size)))


def draw_as_trained(*, num_samples: int, size: int, num_draws: int, seed: int) -> torch.Tensor:
    """Return int64 (M, B), the first batches of as many epochs of training's own order; samples are places of it."""
    order = FullOrder(num_samples=num_samples, batch_size=size, seed=seed)
    return torch.from_numpy(np.stack([order.global_batch(epoch=e, step=0).sample_ids for e in range(num_draws)]))


def batch_errors(gradients_NP: torch.Tensor, samples_MB: torch.Tensor) -> BatchErrors:
    """Measure the batches that these samples make, two or more."""
    full_P = gradients_NP.mean(dim=0)
    num_draws, size = samples_MB.shape
    # A product with the number of times that each sample was drawn: of large batches ten times as fast as a gather.
    counts_MN = torch.zeros(num_draws, len(gradients_NP)).scatter_add_(1, samples_MB, torch.ones(num_draws, size))
    drawn_MP = counts_MN @ gradients_NP / size
    errors_MP = drawn_MP - full_P
    std_P = errors_MP.std(dim=0)
    # Rounding alone makes a gradient differ that is the same in all batches.
    varies_P = std_P > 1e-6 * (full_P.abs() + gradients_NP.abs().mean(dim=0)).clamp(min=1e-30)
    z_P = errors_MP.mean(dim=0)[varies_P] / std_P[varies_P] * num_draws**0.5
    return BatchErrors(
        error_sq=float(errors_MP.square().sum(dim=1).mean()),
        cosine=float(functional.cosine_similarity(drawn_MP, full_P[None]).mean()),
        beyond_frac=float((z_P.abs() > Z_95).float().mean()) if len(z_P) else 0.0,
    )
