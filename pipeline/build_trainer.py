"""From `trainer` and the world to a Lightning trainer, and to a model prepared for it."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from pipeline.model.blocks import shardable_units, wrappable_blocks
from pipeline.shards.errors import UserError
from pipeline.track.ceilings import HowUpdated
from pipeline.trainer_config import GradientCompression, Precision, RankStrategy, TrainerConfig
from pipeline.training.checkpoint import AtomicCheckpointIO
from pipeline.training.quiet_profiler import QuietProfiler
from pipeline.training.recompute import checkpoint_activations
from pipeline.training.step_loop import use_step_loop
from pipeline.training.step_plan import StepPlan
from pipeline.training.strategy import JoinedRanks, ReplicatedStrategy, ShardedStrategy
from pipeline.world import World


def prepare_model(model: nn.Module, config: TrainerConfig) -> None:
    """Checkpoint its activations and compile it, in place, as `trainer` asks.

    A model that may be sharded is compiled a unit at a time: gathering and freeing weights between them would cut the
    graph there anyway.
    """
    if config.activation_checkpointing:
        checkpoint_activations(wrappable_blocks(model))
    if config.compile:
        for part in shardable_units(model) if config.strategy is RankStrategy.fsdp else [model]:
            part.compile(mode=config.compile_mode.value)


def build_trainer(
    *, world: World, config: TrainerConfig, callbacks: list[pl.Callback], plan: StepPlan | None = None
) -> pl.Trainer:
    """Return a Lightning trainer that logs, saves and draws nothing by itself; callbacks do.

    Raises:
        UserError: ranks that do not divide into copies of the model.
    """
    environment = JoinedRanks(rank=world.rank, size=world.size, local_rank=world.local_rank, node_rank=world.node_rank)
    trainer = pl.Trainer(
        accelerator="cuda" if world.cuda else "cpu",
        devices=world.local_size,
        num_nodes=world.num_nodes,
        strategy=build_strategy(world=world, config=config, environment=environment),
        plugins=[environment] if world.size == 1 else [],  # of several ranks the strategy has it
        precision="bf16-mixed" if config.precision is Precision.bf16 else "32-true",
        max_epochs=-1,
        max_steps=plan.total_steps if plan else -1,
        accumulate_grad_batches=plan.micro_batches if plan else 1,
        check_val_every_n_epoch=plan.epochs_per_evaluation if plan else 1,
        callbacks=callbacks,
        logger=False,
        profiler=QuietProfiler(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # Buffers that sharded weights are gathered into stay as they were made first: in inference mode, for it alone.
        inference_mode=not is_fsdp(config, world),
    )
    use_step_loop(trainer)
    return trainer


def build_strategy(*, world: World, config: TrainerConfig, environment: JoinedRanks) -> Strategy:
    """Return how ranks share a step; one rank has nothing to share, whatever `trainer.strategy` says."""
    io = AtomicCheckpointIO()
    if world.size == 1:
        return SingleDeviceStrategy("cuda:0" if world.cuda else "cpu", checkpoint_io=io)
    backend = "nccl" if world.cuda else "gloo"
    compress = config.gradient_compression is GradientCompression.bf16
    if not is_fsdp(config, world):
        return ReplicatedStrategy(
            compress_gradients=compress,
            process_group_backend=backend,
            cluster_environment=environment,
            checkpoint_io=io,
        )
    shard_ranks = config.shard_ranks
    if shard_ranks is not None and world.size % shard_ranks:
        raise UserError(f"trainer.shard_ranks={shard_ranks} does not divide the {world.size} ranks")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.precision is Precision.bf16 else None,
        reduce_dtype=torch.bfloat16 if compress else torch.float32,
    )
    return ShardedStrategy(
        size=world.size,
        units_of=shardable_units,
        policy=policy,
        shard_ranks=shard_ranks,
        process_group_backend=backend,
        cluster_environment=environment,
        checkpoint_io=io,
    )


def how_updated(config: TrainerConfig) -> HowUpdated:
    """Return how updates are made, for measuring them alone."""
    return HowUpdated(
        autocast=config.precision is Precision.bf16,
        compile_mode=config.compile_mode.value if config.compile else None,
        compresses=config.gradient_compression is GradientCompression.bf16,
    )


def is_fsdp(config: TrainerConfig, world: World) -> bool:
    """Return whether the model will be sharded."""
    return config.strategy is RankStrategy.fsdp and world.size > 1
