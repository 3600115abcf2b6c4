"""How much memory there is, from files as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.memory_room import available_bytes, paging_budget, window_bytes

GIB = 1 << 30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    return folder


def write_group(group: Path, **files: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(text)


def test_without_a_limit_it_is_what_the_machine_has_available(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/job\n")
    write_group(tmp_path / "cg" / "job", memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 1\n")
    assert available_bytes(proc=proc, groups=tmp_path / "cg") == 8 * GIB


def test_a_limit_of_the_group_or_of_one_above_counts_and_files_can_be_given_back(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/slurm/job\n")
    stat = f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\n"
    outer = {"memory__max": str(6 * GIB), "memory__current": str(5 * GIB), "memory__stat": stat}
    write_group(tmp_path / "cg" / "slurm", **outer)
    write_group(tmp_path / "cg" / "slurm" / "job", **{**outer, "memory__max": "max"})
    assert available_bytes(proc=proc, groups=tmp_path / "cg") == 3 * GIB


def test_version_1_groups_are_read_too(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("9:name=systemd:/\n4:cpu,memory:/job\n0::/\n")
    write_group(
        tmp_path / "cg" / "memory" / "job",
        memory__limit_in_bytes=str(2 * GIB),
        memory__usage_in_bytes=str(GIB),
        memory__stat="total_inactive_file 1000\ntotal_active_file 24\n",
    )
    unlimited = str((1 << 63) - 4096)
    stat = "total_inactive_file 0\n"
    write_group(
        tmp_path / "cg" / "memory",
        memory__limit_in_bytes=unlimited,
        memory__usage_in_bytes=str(GIB),
        memory__stat=stat,
    )
    assert available_bytes(proc=proc, groups=tmp_path / "cg") == GIB + 1024


def test_data_that_fits_is_not_paged_and_ranks_share_the_room_for_other_data() -> None:
    assert paging_budget(data_bytes=5e9, available_bytes=9.4e9, num_ranks=2) is None
    assert paging_budget(data_bytes=300e9, available_bytes=9.4e9, num_ranks=2) == 2_350_000_000


def test_windows_of_eight_lanes_need_nine_of_them_and_an_eighth() -> None:
    assert window_bytes(lanes=8, window_chunks=4, chunk_bytes=64) == 8 * 4 * 64 + 4 * 64 + (9 * 4 * 64) // 8
