"""From `trainer` and the world to a Lightning trainer."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from pipeline.trainer_config import Precision
from pipeline.training.checkpoint import AtomicCheckpointIO
from pipeline.training.module import StepPlan
from pipeline.world import World


def build_trainer(
    *, world: World, precision: Precision, callbacks: list[pl.Callback], plan: StepPlan | None = None
) -> pl.Trainer:
    """Return a Lightning trainer that logs, saves and draws nothing by itself; callbacks do."""
    strategy: Strategy
    io = AtomicCheckpointIO()
    if world.size > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if world.cuda else "gloo", gradient_as_bucket_view=True, checkpoint_io=io
        )
    else:
        strategy = SingleDeviceStrategy("cuda:0" if world.cuda else "cpu", checkpoint_io=io)
    return pl.Trainer(
        accelerator="cuda" if world.cuda else "cpu",
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy=strategy,
        precision="bf16-mixed" if precision is Precision.bf16 else "32-true",
        max_epochs=-1,
        max_steps=plan.total_steps if plan else -1,
        accumulate_grad_batches=plan.micro_batches if plan else 1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=True,
    )
