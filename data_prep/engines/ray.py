"""The engine `ray`: shard tasks over a Ray cluster, or over a Ray of their own on this machine.

    for task, receipt in run_ray(tasks, engine=RayEngineConfig(address="auto"), on_progress=bar.update):
        ...

As many tasks are out at a time as there are workers, so that a million of them cost no memory. A task whose worker
or node died goes out again, at most MAX_LOSSES times; tasks are idempotent. Progress comes with whole shards.
`data_prep` is imported on the nodes, not sent there: it must be installed on them.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from data_prep.config import RayEngineConfig
from data_prep.engines.local import Finished, OnProgress
from data_prep.engines.nodes import Away, build_on_node, num_done, travelling
from data_prep.shard_task import ShardTask
from pipeline.shards.errors import UserError

log = logging.getLogger(__name__)

MAX_LOSSES = 3
POLL_S = 0.5
CONNECT_S = 5.0
CANCEL_S = 10.0
# Ray's least is 75 MiB; receipts are all that its store holds.
STORE_BYTES = 80 << 20
# A Unix socket's path has at most 107 bytes, of which Ray takes about 70.
MAX_TEMP_FOLDER = 16

ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def run_ray(tasks: list[ShardTask], *, engine: RayEngineConfig, on_progress: OnProgress) -> Iterator[Finished]:
    """Build every task on Ray's workers and yield each with its receipt as they are finished, in any order.

    Args:
        tasks: of one config.
        engine: `workers` None means one a core, of this machine or of the cluster.

    Raises:
        UserError: a task's own; nothing answers at the address; a node lacks the output folder, the source or a
            version; a task's worker died again and again.
    """
    away = travelling(tasks[0].config)
    with _connected(engine) as num_workers:
        build = ray.remote(num_cpus=1, max_retries=0)(_build)
        waiting = deque(tasks)
        building: dict[Any, ShardTask] = {}
        num_losses: Counter[tuple[str, int]] = Counter()
        try:
            while waiting or building:
                while waiting and len(building) < num_workers:
                    task = waiting.popleft()
                    building[build.remote(away, away.task(task))] = task
                finished, _ = ray.wait(list(building), timeout=POLL_S)
                for reference in finished:
                    task = building.pop(reference)
                    try:
                        receipt = _receipt(reference)
                    except _Lost as error:
                        num_losses[task.split, task.number] += 1
                        _check_losses(task, num_losses[task.split, task.number], reason=str(error))
                        waiting.append(task)
                        continue
                    on_progress(*num_done(receipt))
                    yield task, receipt
        finally:
            _cancel(list(building))


class _Lost(Exception):
    """A worker died with its task."""


def _build(away: Away, task: ShardTask) -> dict[str, Any]:
    return build_on_node(away, task, report=lambda _items, _bytes: None)


def _receipt(reference: Any) -> dict[str, Any]:
    """Return a finished task's receipt.

    Raises:
        UserError, OSError: the task's own.
        _Lost: there is no receipt, for a reason that another try may mend.
    """
    try:
        receipt: dict[str, Any] = ray.get(reference)
    except TaskCancelledError:
        raise KeyboardInterrupt from None
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, OSError)):
            raise error.cause from None
        if missing := re.search(r"No module named '(data_prep|pipeline)[\w.]*'", str(error)):
            raise UserError(
                f"engine=ray: {missing[1]} cannot be imported on node {_node_of(error)};"
                " install tarmac on every node, in the Python that runs Ray"
            ) from None
        raise
    except RayError as error:
        raise _Lost(str(error).strip().splitlines()[0]) from None
    return receipt


def _node_of(error: RayTaskError) -> str:
    found = re.search(r"ip=([^,)\s]+)", str(error))
    return found[1] if found else "(unknown)"


def _check_losses(task: ShardTask, num_losses: int, *, reason: str) -> None:
    shard = f"shard {task.split} {task.number}"
    if num_losses >= MAX_LOSSES:
        raise UserError(
            f"engine=ray: {shard} was lost {num_losses} times with its worker (the last time: {reason}); finished"
            " shards are kept: give nodes more memory or engine.workers less, and type the same command again"
        )
    log.warning("%s was lost with its worker (%s); building it again", shard, reason)


def _cancel(references: list[Any]) -> None:
    """Stop tasks and wait until they took their part files back."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=CANCEL_S)


@contextmanager
def _connected(engine: RayEngineConfig) -> Iterator[int]:
    """Start or join a Ray for the block and yield the number of workers to use.

    Raises:
        UserError: nothing answers at the address, or it has no cores.
    """
    # Its hints are for those who called it themselves.
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    temp_folder = None
    try:
        if engine.address is None:
            temp_folder = _start(engine.workers or os.cpu_count() or 1)
        else:
            _join(engine.address)
        cores = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
        num_workers = engine.workers or int(cores)
        if num_workers < 1:
            raise UserError(
                f"engine.address={engine.address}: that cluster has no cores; add nodes, or engine.workers=N"
            )
        yield num_workers
    finally:
        ray.shutdown()
        if temp_folder:
            shutil.rmtree(temp_folder, ignore_errors=True)


def _start(num_workers: int) -> str:
    """Start a private Ray on this machine; return the folder that holds its sockets and logs."""
    # Else Ray leaves one in the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= MAX_TEMP_FOLDER else "/tmp"
    folder = tempfile.mkdtemp(prefix="tarmac-ray-", dir=short)
    try:
        ray.init(
            address="local",
            num_cpus=num_workers,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
    except BaseException:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _join(address: str) -> None:
    spelled = f"engine.address={address}"
    if address != "auto":
        parts = ADDRESS.fullmatch(address)
        if parts is None:
            raise UserError(f"{spelled}: auto, HOST:PORT, ray://HOST:PORT or null wanted")
        # Ray itself would try for minutes.
        try:
            socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"{spelled}: nothing answers there ({error}); start it with `ray start --head`") from None
    try:
        ray.init(address=address, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, RayError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{spelled}: cannot be joined ({reason}); see docs/CLUSTER.md") from None
