"""The jobs of `engine=slurm`, run by submitit's local executor: real processes, and no Slurm."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from data_prep.config import Cluster, SlurmEngineConfig
from engine_runs import JOBS, check_a_tasks_own_error, killed_at, last_line, prepare_by, start_by, times_built
from pipeline.shards.errors import UserError
from started import check_ctrl_c, wait_for_shards
from tiny_data import tree
from waiting import wait_until

pytest.importorskip("submitit")


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_jobs_make_the_same_bytes_and_each_shard_once(
    tmp_path: Path, by_one_process: dict[str, bytes], cores: int
) -> None:
    environment = killed_at(tmp_path / "kill", "none", "once")
    ended = prepare_by(tmp_path / "set", *JOBS, f"engine.cpus_per_task={cores}", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "set") == by_one_process
    built = (tmp_path / "kill" / "built").read_text().splitlines()
    assert sorted(built) == sorted({*built})
    assert len(built) == 10


@pytest.mark.slow
def test_a_killed_job_is_followed_up(tmp_path: Path, by_one_process: dict[str, bytes]) -> None:
    environment = killed_at(tmp_path / "kill", "train-3", "once")
    ended = prepare_by(tmp_path / "set", *JOBS, "engine.folder=logs", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert times_built(tmp_path / "kill", "train-3") == 2
    assert "lost, and followed up: job " in ended.stderr
    assert tree(tmp_path / "set") == by_one_process
    # Logs stay where a folder was asked for, and nobody else reads the pickles.
    run = next((tmp_path / "logs").glob("run-*"))
    assert list(run.glob("*_log.err"))
    assert stat.S_IMODE(run.stat().st_mode) == 0o700


@pytest.mark.slow
def test_a_shard_that_is_lost_with_every_job_is_named_with_the_log(tmp_path: Path) -> None:
    environment = killed_at(tmp_path / "kill", "train-3", "always")
    ended = prepare_by(tmp_path / "set", *JOBS, environment=environment)
    assert ended.returncode == 2
    told = last_line(ended)
    assert told.startswith("error: engine=slurm: shard train-000003 was lost 3 times with its job; the last: job ")
    log = Path(told.split("the last: ")[1].split(", ")[1].partition(": ")[0])
    assert log.is_file()
    assert log.is_relative_to(tmp_path / "set" / "plan" / "slurm")
    assert times_built(tmp_path / "kill", "train-3") == 3
    assert prepare_by(tmp_path / "set", "engine.workers=1").returncode == 0
    assert not (tmp_path / "set" / "plan" / "slurm").exists()


@pytest.mark.slow
def test_a_tasks_own_error_is_one_line(tmp_path: Path) -> None:
    check_a_tasks_own_error(tmp_path, *JOBS)


@pytest.mark.slow
def test_jobs_outlive_their_killed_driver_and_end_when_the_command_is_typed_again(
    tmp_path: Path, by_one_process: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    process = start_by(out, *JOBS)
    wait_for_shards(process, out, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "dataset.json").exists()
    ended = prepare_by(out, "engine.workers=2")
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: not jobs_of(tmp_path), what="the end of the killed driver's jobs")
    assert tree(out) == by_one_process


@pytest.mark.slow
def test_ctrl_c_ends_the_jobs_too(tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = start_by(out, *JOBS, "source.samples=200000")
    wait_for_shards(process, out, 2)
    check_ctrl_c(process, out)
    wait_until(lambda: not jobs_of(tmp_path), what="the end of the jobs")


def jobs_of(folder: Path) -> list[str]:
    """Return the command lines of living processes that name a folder, as those of submitit's jobs do."""
    told = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if str(folder) in line]


def test_without_slurm_it_says_where_to_type_the_command(tmp_path: Path) -> None:
    ended = prepare_by(tmp_path / "set", "engine=slurm", environment={"PATH": str(tmp_path)})
    assert ended.returncode == 2
    assert last_line(ended).startswith("error: engine=slurm: no sbatch on this machine")


def test_an_output_at_a_url_wants_a_folder_for_the_jobs(tmp_path: Path) -> None:
    from data_prep.engines.slurm import _folders  # needs submitit

    engine = SlurmEngineConfig(cluster=Cluster.local)
    with pytest.raises(UserError, match=r"engine\.folder is needed with out=s3://bucket/set"):
        _folders("s3://bucket/set", engine)
    engine.folder = str(tmp_path / "jobs")
    run, board = _folders("s3://bucket/set", engine)
    assert board.parent == run
    assert run.parent == tmp_path / "jobs"
