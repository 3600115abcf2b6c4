"""The Lightning module: batch -> augment -> model -> loss, with every random number a function of the step.

Losses are divided by the weight of the whole global batch, known beforehand, so that the gradient of one update is
the mean over its samples whatever the number of ranks and micro-batches, a short last micro-batch included.
Sums stay on the device; nothing here calls `self.log`.

Axes: B batch, D pixels of an image, K classes or targets, L labels of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import nn

from pipeline.data.augment import augment_normalise
from pipeline.data.loader import Batch
from pipeline.data.mixup import of_neighbours
from pipeline.shards.keyed import make_key
from pipeline.training.augmentation import Augmentation
from pipeline.training.average_precision import LabelScores
from pipeline.training.class_report import ClassReport, ClassSums, report_of_labels
from pipeline.training.explained_variance import ExplainedVariance
from pipeline.training.gradient_noise import add_noise
from pipeline.training.metrics import MetricSums
from pipeline.training.objective import Objectives, mean_squared_error
from pipeline.training.scores import scores_of
from pipeline.training.sharding import whole
from pipeline.training.step_plan import StepPlan

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class EvaluationWatch(Protocol):
    """Looks on while a split is evaluated."""

    def add(self, logits_BK: torch.Tensor, losses_B: torch.Tensor, batch: Batch) -> None:
        """Look at what was said of a batch, and at each sample's loss."""


class ClassifierModule(pl.LightningModule):
    """Trains and evaluates one classifier; metrics are read from `train_sums` and `eval_sums`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        objectives: Objectives,
        make_optimizer: MakeOptimizer,
        plan: StepPlan,
        augmentation: Augmentation,
        mean: Iterable[float],
        std: Iterable[float],
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives
        self.make_optimizer = make_optimizer
        self.plan, self.augmentation, self.seed = plan, augmentation, seed
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)
        self.grad_norm: torch.Tensor | None = None
        self.eval_metrics: dict[str, float] = {}
        # Of the last pass that was asked for it.
        self.class_report: ClassReport | None = None
        # Of the passes to come; those within training are then asked for a class report.
        self.evaluation_watch: EvaluationWatch | None = None
        self.num_extra_sums = 2

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes a hook's name some forty times a step; torch looks through parameters and modules each time.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def finished_steps(self) -> int:
        """Updates made since the start of training, resumes included: the one number that positions follow from."""
        return self.trainer.global_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.model)

    def on_fit_start(self) -> None:
        # The recorder's own numbers ride along in the same all-reduce.
        self.train_sums = MetricSums(
            self.device, num_extra=self.num_extra_sums, has_classes=self.objectives.has_classes
        )

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
        pixels_BD, own_B = self.inputs_of(batch)
        logits_BK = self.model(pixels_BD)
        losses_B = self.objectives.training(logits_BK, batch.labels_B, own_B=own_B)
        self.train_sums.add(logits_BK.detach(), _larger_part(batch.labels_B, own_B), losses_B.detach(), batch.weights_B)
        # Lightning divides by the number of micro-batches and DDP by that of ranks; the sum is wanted.
        scale = self.trainer.world_size * self.plan.micro_batches / batch.global_weight
        return (losses_B * batch.weights_B).sum() * scale

    def inputs_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the model is trained on: augmented, normalised pixels (B, D), and mixup's shares or None."""
        return self.augmentation.inputs(
            batch.images_BHWC,
            batch.positions_B,
            seed=self.seed,
            epoch=batch.epoch,
            mean_C=self.mean,
            std_C=self.std,
        )

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip by the global norm; measure the norm, without synchronising, whenever it is clipped. Then add noise."""
        if self.plan.clip_norm is not None:
            self.grad_norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip_norm))
        if self.plan.noise_std_at is not None:
            step = self.finished_steps
            add_noise(self.model, std=self.plan.noise_std_at(step), seed=self.seed, step=step)

    def measure_grad_norm(self) -> None:
        """Measure the gradient's norm for a step that will be logged."""
        if self.plan.clip_norm is None:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            self.grad_norm = whole(nn.utils.get_total_norm(gradients))

    def start_evaluation(self, *, by_class: bool = False) -> None:
        """Begin a pass over an evaluation split; `by_class` asks for a `class_report` too."""
        self._eval_sums = MetricSums(self.device, with_mse=True, has_classes=self.objectives.has_classes)
        self._explained: ExplainedVariance | None = None
        self._label_scores: LabelScores | None = None
        self._class_sums: ClassSums | None = None
        self._by_class = by_class

    def evaluation_logits(self, batch: Batch) -> torch.Tensor:
        """Return what the model says of a batch's images as they are; the module must be in evaluation mode."""
        logits_BK: torch.Tensor = self.model(
            augment_normalise(batch.images_BHWC, None, flip=False, crop_padding=0, mean_C=self.mean, std_C=self.std)
        )
        return logits_BK

    def add_evaluation_outputs(self, logits_BK: torch.Tensor, batch: Batch) -> None:
        """Add what a model, or several together, said of a batch."""
        labels, weights_B = batch.labels_B, batch.weights_B
        losses_B = self.objectives.evaluation(logits_BK, labels)
        errors_B = mean_squared_error(scores_of(logits_BK, self.objectives.scores), labels)
        self._eval_sums.add(logits_BK, labels, losses_B, weights_B, errors_B=errors_B)
        if self.evaluation_watch is not None:
            self.evaluation_watch.add(logits_BK, losses_B, batch)
        num_classes = logits_BK.shape[1]
        if not self.objectives.has_classes:
            self._explained = self._explained or ExplainedVariance(num_targets=num_classes, device=self.device)
            self._explained.add(logits_BK, labels, weights_B)
        elif labels.ndim == 2:
            self._label_scores = self._label_scores or LabelScores(num_classes=num_classes)
            self._label_scores.add(logits_BK, labels, weights_B)
        elif self._by_class:
            self._class_sums = self._class_sums or ClassSums(num_classes=num_classes, device=self.device)
            self._class_sums.add(logits_BK, labels, weights_B)

    def finish_evaluation(self) -> dict[str, float]:
        """Return loss, top1_frac, top5_frac, mse and samples over all ranks; of several labels also map_frac.

        Of a regression r2_frac in place of top1_frac and top5_frac: the share of the targets' variance explained.

        mse is the mean over samples and classes of (score - target) squared, scores being what the objective makes of
        logits: shares of classes, probabilities, or themselves. map_frac is the mean average precision.
        """
        metrics, _ = self._eval_sums.read()
        if self._explained is not None:
            metrics["r2_frac"] = self._explained.read()
        if self._label_scores is not None:
            found = self._label_scores.read()
            metrics["map_frac"] = found.mean
            self.class_report = report_of_labels(found)
        if self._class_sums is not None:
            self.class_report = self._class_sums.read()
        self._label_scores = self._class_sums = self._explained = None
        return {**metrics, "samples": round(metrics["samples"])}

    def on_validation_start(self) -> None:
        self.start_evaluation(by_class=self.evaluation_watch is not None)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_evaluation_outputs(self.evaluation_logits(batch), batch)

    def on_validation_epoch_end(self) -> None:
        self.eval_metrics = self.finish_evaluation()


def _larger_part(labels: torch.Tensor, own_B: torch.Tensor | None) -> torch.Tensor:
    """Return the labels that hits are counted by: under mixup of what has the larger share in the blend."""
    if own_B is None:
        return labels
    is_own = (own_B >= 0.5).view(-1, *(1 for _ in labels.shape[1:]))
    return torch.where(is_own, labels, of_neighbours(labels))
