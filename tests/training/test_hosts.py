"""Several hosts: one agent of torchrun for each, on loopback, and in network namespaces with a cable between them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.shards.manifest import DataSet
from runs import SMALL, assert_equal_weights, run_ranks

pytestmark = pytest.mark.slow

OPTIONS = [*SMALL, "trainer.max_epochs=2", "model.dropout=0.1"]
TIMEOUT_S = 300


def agent(*, address: str, port: int, num_hosts: int, num_ranks: int) -> list[str]:
    """Return the command of one host: the same on all of them, but for the number of its ranks."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={num_hosts}", f"--nproc-per-node={num_ranks}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={address}:{port}", "--rdzv-id=test", "-m", "pipeline.train"),
    ]


def finish(commands: list[tuple[list[str], dict[str, str]]]) -> None:
    """Run commands side by side to their end, and fail with their output where one fails."""
    with ExitStack() as started:
        processes = []
        for command, variables in commands:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            )
            started.callback(process.kill)
            processes.append(process)
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(("ranks_of_hosts", "strategy"), [([1, 1], "ddp"), ([1, 1], "fsdp"), ([1, 2], "ddp")])
def test_agents_of_several_hosts_train_what_one_trains(
    synthetic: DataSet, tmp_path: Path, ranks_of_hosts: list[int], strategy: str
) -> None:
    """Hosts need not have as many ranks as each other."""
    options = [f"data.path={synthetic.root}", *OPTIONS, f"trainer.strategy={strategy}"]
    run_ranks(sum(ranks_of_hosts), "pipeline.train", f"run_dir={tmp_path / 'one'}", *options)
    port = free_port()
    commands = [
        agent(address="127.0.0.1", port=port, num_hosts=len(ranks_of_hosts), num_ranks=num_ranks)
        for num_ranks in ranks_of_hosts
    ]
    finish([([*command, f"run_dir={tmp_path / 'several'}", *options], {}) for command in commands])
    assert_equal_weights(tmp_path / "one", tmp_path / "several")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Make two network namespaces that reach each other at 10.77.0.1 and .2 and nothing else; yield their names."""
    names = [f"tarmac{os.getpid()}{side}" for side in "ab"]
    cable = [f"t{os.getpid()}{side}" for side in "ab"]
    with ExitStack() as made:
        for name in names:
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
        ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for number, (name, end) in enumerate(zip(names, cable, strict=True), start=1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "link", "set", end, "name", "cable0")
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable0")
            ip("-n", name, "link", "set", "cable0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names


def test_two_hosts_with_a_cable_between_them_train_what_one_trains(synthetic: DataSet, tmp_path: Path) -> None:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces want root and the command ip")
    options = [f"data.path={synthetic.root}", *OPTIONS]
    with ExitStack() as opened:
        try:
            hosts = opened.enter_context(two_hosts())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this system makes no network namespaces: {error.stderr.strip()}")
        commands = []
        for number, host in enumerate(hosts, start=1):
            python, *rest = agent(address="10.77.0.1", port=29400, num_hosts=2, num_ranks=1)
            # Both have the name of this machine, which leads to neither's address.
            own = [f"--local-addr=10.77.0.{number}", f"--rdzv-conf=is_host={int(number == 1)}"]
            launched = [python, *rest[:2], *own, *rest[2:], f"run_dir={tmp_path / 'several'}", *options]
            commands.append((["ip", "netns", "exec", host, *launched], {"GLOO_SOCKET_IFNAME": "cable0"}))
        finish(commands)
    run_ranks(2, "pipeline.train", f"run_dir={tmp_path / 'one'}", *options)
    assert_equal_weights(tmp_path / "one", tmp_path / "several")
