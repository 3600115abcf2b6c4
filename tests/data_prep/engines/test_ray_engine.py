from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_runs import RAY, killed_at, last_line, num_receipts, prepare_by, start_by, times_built
from tiny_data import ROOT, tree, write_pictures

pytest.importorskip("ray")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A running Ray of two cores that is not ours: its address, and the environment that lets one in."""
    address, token = f"127.0.0.1:{free_port()}", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    arguments = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    arguments += ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--object-store-memory=83886080"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *arguments],
        cwd=tmp_path_factory.mktemp("cluster"),  # not the driver's working folder
        env={**os.environ, "PYTHONPATH": str(ROOT), **token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline_s = time.monotonic() + 60
        while True:
            assert process.poll() is None, "ray start ended"
            assert time.monotonic() < deadline_s
            try:
                socket.create_connection(("127.0.0.1", int(address.split(":")[1])), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        time.sleep(3)  # the node itself comes up after its directory
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
    write_pictures(tmp_path / "pets", num_each=6)
    (tmp_path / "pets" / "cat" / "bad.png").write_bytes(b"no picture")
    source = ["source=folder", "source.root=pets", "layout.shard_bytes=20000"]
    engine = ["engine=ray", f"engine.address={address}"]
    ended = prepare_by(tmp_path / "set", *engine, source=source, environment=token)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert last_line(ended).startswith("error: cat/bad.png: ")
    assert "max_rejected=0" in last_line(ended)
    assert not list((tmp_path / "set").rglob(".*.part"))


@pytest.mark.slow
def test_ctrl_c_ends_the_cluster_too(tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = start_by(out, *RAY, "source.samples=200000")
    deadline_s = time.monotonic() + 60
    while num_receipts(out) < 2 and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in stderr
    assert not list(out.rglob(".*.part"))
    assert not processes_below(tmp_path)


@pytest.mark.slow
def test_killed_and_typed_again_with_another_engine_it_ends_with_the_same_bytes(
    tmp_path: Path, by_one_process: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    process = start_by(out, *RAY)
    deadline_s = time.monotonic() + 60
    while num_receipts(out) < 2 and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (out / "dataset.json").exists()
    ended = prepare_by(out, "engine.workers=1")
    assert ended.returncode == 0, ended.stderr
    assert "going on: " in ended.stderr
    assert tree(out) == by_one_process
    deadline_s = time.monotonic() + 30
    # Two agents of Ray's, which write nothing of ours, take a minute.
    while [number for number in processes_below(tmp_path) if not is_agent(number)]:
        assert time.monotonic() < deadline_s, "a worker outlives its driver"
        time.sleep(0.1)


def is_agent(number: int) -> bool:
    try:
        return b"Agent" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def processes_below(folder: Path) -> list[int]:
    """Return the ids of living processes whose working folder is `folder`: the command and what it started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            alive = "Z" not in (process / "stat").read_text().rpartition(")")[2][:3]
            if (process / "cwd").readlink() == folder and alive:
                found.append(int(process.name))
        except OSError:
            pass
    return found


def test_an_address_where_nothing_answers_is_one_line_within_seconds(tmp_path: Path) -> None:
    started_s = time.monotonic()
    ended = prepare_by(tmp_path / "set", "engine=ray", f"engine.address=127.0.0.1:{free_port()}")
    assert time.monotonic() - started_s < 60
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
