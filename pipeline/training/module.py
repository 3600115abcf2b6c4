"""The Lightning module: batch -> augment -> model -> loss, with every random number a function of the step.

Losses are divided by the weight of the whole global batch, known beforehand, so that the gradient of one update is
the mean over its samples whatever the number of ranks and micro-batches, a short last micro-batch included.
Sums stay on the device; nothing here calls `self.log`.

Axes: B batch, D pixels of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from pipeline.data.augment import augment_normalise, augmentation_bits, random_flip_crop
from pipeline.data.loader import Batch
from pipeline.shards.keyed import make_key
from pipeline.training.metrics import MetricSums
from pipeline.training.objective import Objective

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Numbers of a run that follow from config and data.

    Attributes:
        steps_per_epoch, total_steps: in updates.
        micro_batches: forward passes of each rank in an update.
        rate_at: learning rate of update `step`.
        clip_norm: largest gradient norm, or None.
    """

    steps_per_epoch: int
    total_steps: int
    micro_batches: int
    rate_at: Callable[[int], float]
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to training images on their device, the same for an image whatever the rank."""

    flip: bool
    crop_padding: int

    def __bool__(self) -> bool:
        return self.flip or self.crop_padding > 0

    def apply(self, images_BHWC: torch.Tensor, positions_B: torch.Tensor, *, seed: int, epoch: int) -> torch.Tensor:
        """Return augmented uint8 images; `positions_B` are their places in the epoch's order."""
        if not self:
            return images_BHWC
        bits_B = augmentation_bits(positions_B, seed=seed, epoch=epoch)
        return random_flip_crop(images_BHWC, bits_B, flip=self.flip, crop_padding=self.crop_padding)


class ClassifierModule(pl.LightningModule):
    """Trains and evaluates one classifier; metrics are read from `train_sums` and `eval_sums`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: Objective,
        eval_objective: Objective,
        make_optimizer: MakeOptimizer,
        plan: StepPlan,
        augmentation: Augmentation,
        mean: Iterable[float],
        std: Iterable[float],
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective, self.eval_objective = objective, eval_objective
        self.make_optimizer = make_optimizer
        self.plan, self.augmentation, self.seed = plan, augmentation, seed
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)
        self.grad_norm: torch.Tensor | None = None
        self.eval_metrics: dict[str, float] = {}
        self.num_extra_sums = 2

    @property
    def finished_steps(self) -> int:
        """Updates made since the start of training, resumes included: the one number that positions follow from."""
        return self.trainer.global_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.model)

    def on_fit_start(self) -> None:
        # The recorder's own numbers ride along in the same all-reduce.
        self.train_sums = MetricSums(self.device, num_extra=self.num_extra_sums)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        noise_seed = make_key("noise", self.seed, batch.step, batch.micro, self.global_rank) >> 1
        # Not torch.manual_seed, which also asks every other kind of device: 328 microseconds against 1.2.
        torch.default_generator.manual_seed(noise_seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(noise_seed)
        if batch.micro == 0:
            rate = self.plan.rate_at(batch.step)
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = rate * group.get("rate_scale", 1.0)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        logits_BK = self.model(self.pixels_of(batch))
        losses_B = self.objective(logits_BK, batch.labels_B)
        self.train_sums.add(logits_BK, batch.labels_B, losses_B, batch.weights_B)
        # Lightning divides by the number of micro-batches and DDP by that of ranks; the sum is wanted.
        scale = self.trainer.world_size * self.plan.micro_batches / batch.global_weight
        return (losses_B * batch.weights_B).sum() * scale

    def pixels_of(self, batch: Batch) -> torch.Tensor:
        """Return what the model is trained on, (B, D): the batch's images augmented and normalised."""
        bits_B = augmentation_bits(batch.positions_B, seed=self.seed, epoch=batch.epoch) if self.augmentation else None
        return augment_normalise(
            batch.images_BHWC,
            bits_B,
            flip=self.augmentation.flip,
            crop_padding=self.augmentation.crop_padding,
            mean_C=self.mean,
            std_C=self.std,
        )

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip by the global norm; measure the norm, without synchronising, whenever it is clipped."""
        if self.plan.clip_norm is not None:
            self.grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip_norm)

    def measure_grad_norm(self) -> None:
        """Measure the gradient's norm for a step that will be logged."""
        if self.plan.clip_norm is None:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            self.grad_norm = nn.utils.get_total_norm(gradients)

    def start_evaluation(self) -> None:
        """Begin a pass over an evaluation split."""
        self._eval_sums = MetricSums(self.device)

    def add_evaluation_batch(self, batch: Batch) -> None:
        """Add a batch; the module must be in evaluation mode."""
        pixels_BD = augment_normalise(
            batch.images_BHWC, None, flip=False, crop_padding=0, mean_C=self.mean, std_C=self.std
        )
        logits_BK = self.model(pixels_BD)
        losses_B = self.eval_objective(logits_BK, batch.labels_B)
        self._eval_sums.add(logits_BK, batch.labels_B, losses_B, batch.weights_B)

    def finish_evaluation(self) -> dict[str, float]:
        """Return top1_frac, top5_frac, loss and samples over all ranks."""
        metrics, _ = self._eval_sums.read()
        return {**metrics, "samples": round(metrics["samples"])}

    def on_validation_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_evaluation_batch(batch)

    def on_validation_epoch_end(self) -> None:
        self.eval_metrics = self.finish_evaluation()
