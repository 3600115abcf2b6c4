from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_runs import RAY, check_a_tasks_own_error, killed_at, last_line, prepare_by, start_by, times_built
from loopback import free_port
from started import check_ctrl_c, processes_in, wait_for_shards
from tiny_data import ROOT, tree
from waiting import DEADLINE_S, wait_until

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A running Ray of two cores that is not ours: its address, and the environment that lets one in."""
    address, token = f"127.0.0.1:{free_port()}", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    arguments = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    arguments += ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--object-store-memory=83886080"]
    folder = tmp_path_factory.mktemp("cluster")  # not the driver's working folder
    with (folder / "printed").open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **token},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_up() -> bool:
        told = (folder / "printed").read_text()
        assert process.poll() is None, told
        return "Ray runtime started." in told

    try:
        wait_until(is_up, what="the start of Ray")
        yield address, token
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_ray_of_its_own_makes_the_same_bytes_though_a_worker_is_killed(
    tmp_path: Path, by_one_process: dict[str, bytes]
) -> None:
    environment = killed_at(tmp_path / "kill", "train-3", "once")
    ended = prepare_by(tmp_path / "set", *RAY, environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert times_built(tmp_path / "kill", "train-3") == 2
    assert "shard train 3 was lost with its worker" in ended.stderr
    assert tree(tmp_path / "set") == by_one_process
    assert "prepared 800 of 800 images" in ended.stderr


@pytest.mark.slow
def test_a_joined_cluster_makes_the_same_bytes(
    tmp_path: Path, by_one_process: dict[str, bytes], cluster: tuple[str, dict[str, str]]
) -> None:
    address, token = cluster
    ended = prepare_by(tmp_path / "set", "engine=ray", f"engine.address={address}", environment=token)
    assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "set") == by_one_process


@pytest.mark.slow
def test_a_tasks_own_error_is_one_line(tmp_path: Path, cluster: tuple[str, dict[str, str]]) -> None:
    address, token = cluster
    check_a_tasks_own_error(tmp_path, "engine=ray", f"engine.address={address}", environment=token)


@pytest.mark.slow
def test_ctrl_c_ends_the_cluster_too(tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = start_by(out, *RAY, "source.samples=200000")
    wait_for_shards(process, out, 2)
    check_ctrl_c(process, out)
    wait_until(lambda: not processes_in(tmp_path), what="the end of the cluster")


@pytest.mark.slow
def test_killed_and_typed_again_with_another_engine_it_ends_with_the_same_bytes(
    tmp_path: Path, by_one_process: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    process = start_by(out, *RAY)
    wait_for_shards(process, out, 2)
    process.kill()
    process.communicate()
    assert not (out / "dataset.json").exists()
    ended = prepare_by(out, "engine.workers=1")
    assert ended.returncode == 0, ended.stderr
    assert "going on: " in ended.stderr
    assert tree(out) == by_one_process
    # Two agents of Ray's, which write nothing of ours, take a minute.
    wait_until(lambda: all(map(is_agent, processes_in(tmp_path))), what="the end of the driver's workers")


def is_agent(number: int) -> bool:
    try:
        return b"Agent" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def test_an_address_where_nothing_answers_is_one_line_within_seconds(tmp_path: Path) -> None:
    started_s = time.monotonic()
    ended = prepare_by(tmp_path / "set", "engine=ray", f"engine.address=127.0.0.1:{free_port()}")
    assert time.monotonic() - started_s < DEADLINE_S
    assert ended.returncode == 2
    assert "nothing answers there (" in last_line(ended)
    assert "ray start --head" in last_line(ended)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "told"),
    [("auto", "cannot be joined"), ("cluster", "auto, HOST:PORT, ray://HOST:PORT or null wanted")],
)
def test_an_address_that_cannot_be_one_is_one_line(tmp_path: Path, address: str, told: str) -> None:
    environment = {"RAY_TMPDIR": str(tmp_path)}  # where `auto` looks for a Ray of this machine
    ended = prepare_by(tmp_path / "set", "engine=ray", f"engine.address={address}", environment=environment)
    assert ended.returncode == 2
    assert last_line(ended).startswith(f"error: engine.address={address}: ")
    assert told in last_line(ended)
