"""How ranks share the work of a step: Lightning's strategies, told what this project knows.

ReplicatedStrategy      every rank has the whole model, gradients are averaged (DDP)
ShardedStrategy         every rank has a part of it (FSDP2); checkpoints are whole all the same
JoinedRanks             tells Lightning who is who, so that it reads no launcher's variables and starts nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.compression import average_in_bf16
from pipeline.training.sharding import fill_weights, gather_whole, load_optimizer_state, shard_model, spread_weights


class JoinedRanks(ClusterEnvironment):
    """Ranks that a launcher has started and `join_world` has joined.

    Lightning would guess from environment variables; inside a Slurm allocation it then takes one process for a
    misconfigured job, and installs handlers of its own for signals.
    """

    def __init__(self, *, rank: int, size: int, local_rank: int, node_rank: int) -> None:
        self._rank, self._size, self._local_rank, self._node_rank = rank, size, local_rank, node_rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise NotImplementedError("the process group has been joined already")

    @property
    def main_port(self) -> int:
        raise NotImplementedError("the process group has been joined already")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._size

    def set_world_size(self, size: int) -> None:
        """Not for Lightning to say: it takes every host to have as many ranks as this one."""

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Not for Lightning to say; see `set_world_size`."""

    def local_rank(self) -> int:
        return self._local_rank

    def node_rank(self) -> int:
        return self._node_rank


class ReplicatedStrategy(DDPStrategy):
    """DDP whose gradients may be exchanged in bfloat16, on any backend."""

    def __init__(self, *, compress_gradients: bool, **options: Any) -> None:
        super().__init__(gradient_as_bucket_view=True, **options)
        self._compress_gradients = compress_gradients

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        # Not by Lightning's own argument, which does nothing without a GPU, in silence.
        if self._compress_gradients and isinstance(self.model, DistributedDataParallel):
            self.model.register_comm_hook(None, average_in_bf16)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks, with checkpoints as one process would write them.

    The module's `model` has its weights on rank 0, and may be on the meta device elsewhere.

    Args:
        units_of: the parts of the model to gather one at a time.
        policy: number formats of gathered weights and of exchanged gradients.
        shard_ranks: ranks that hold one copy of the model between them; None: all.
    """

    def __init__(
        self,
        *,
        size: int,
        units_of: Callable[[nn.Module], list[nn.Module]],
        policy: MixedPrecisionPolicy,
        shard_ranks: int | None,
        process_group_backend: str,
        cluster_environment: ClusterEnvironment,
        checkpoint_io: CheckpointIO,
    ) -> None:
        super().__init__(
            data_parallel_size=size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )
        self.cluster_environment = cluster_environment
        self.checkpoint_io = checkpoint_io
        self._units_of, self._policy, self._shard_ranks = units_of, policy, shard_ranks
        self._stored: dict[str, torch.Tensor] | None = None

    # Weights are found before the model is cut, and filled in afterwards; the optimiser exists only then.
    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup(self, trainer: pl.Trainer) -> None:
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(trainer)
        model = cast(nn.Module, self.lightning_module.model)
        mesh = self.device_mesh["data_parallel"]
        if self._shard_ranks is not None and self._shard_ranks < self.world_size:
            shape = (self.world_size // self._shard_ranks, self._shard_ranks)
            mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("copies", "shards"))
        drawn = model.state_dict() if self.is_global_zero and self._stored is None else None
        model.to("meta")
        shard_model(model, self._units_of(model), mesh=mesh, policy=self._policy)
        model.to_empty(device=self.root_device)
        if self._stored is None:
            spread_weights(model, drawn)
        else:
            fill_weights(model, self._stored)
        self._stored = drawn = None
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Keep what `setup` will fill the model with, once it is cut."""
        self._stored = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's state as it lies on this rank: `gather_whole` makes it whole."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the optimiser's state as it lies on this rank: `gather_whole` makes it whole."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return optimizer.state_dict()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            load_optimizer_state(optimizer, content)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        # Of which each rank reads its parts alone.
        return load_checkpoint(Path(checkpoint_path), mapped=True)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        content = gather_whole(checkpoint, keep=self.is_global_zero)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(content, filepath, storage_options=storage_options)
