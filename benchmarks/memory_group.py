"""A limit to memory, and to the disk's rate, for a process that is measured: a control group of its own.

    with MemoryGroup(limit_bytes=1 << 30) as group:
        group.enter(child_pid)          # what the process takes from now on counts
        group.file_bytes()              # page cache of the group

Needs root, or a delegated group. cgroup v1: a child of the group that this process is in. v2: a sibling, since
groups with processes cannot have children. Elsewhere `systemd-run --user --scope -p MemoryMax=1G COMMAND` limits a
whole command.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

ROOT = Path("/sys/fs/cgroup")


class NoGroupError(Exception):
    """A control group cannot be made here; the message says why."""


class MemoryGroup:
    """Makes a group and removes it at the end, when its processes have ended."""

    def __init__(self, *, limit_bytes: int | None, read_bytes_per_s: int | None = None, disk_of: Path = Path()) -> None:
        """Make it.

        Args:
            limit_bytes: of memory; None for no limit, which still counts.
            read_bytes_per_s: of the disk that `disk_of` lies on; None for no limit.

        Raises:
            NoGroupError: it cannot be made.
        """
        paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        named = {name: path for names, path in paths.items() for name in names.split(",")}
        self._is_v1 = "memory" in named
        name = f"tarmac-{os.getpid()}-{id(self):x}"
        self._groups: list[Path] = []
        try:
            if self._is_v1:
                self.memory = self._make(ROOT / "memory" / named["memory"].lstrip("/") / name)
            else:
                self.memory = self._make(ROOT / Path(named[""].lstrip("/")).parent / name)
            if limit_bytes is not None:
                file = "memory.limit_in_bytes" if self._is_v1 else "memory.max"
                (self.memory / file).write_text(str(limit_bytes))
            self._stat()
            if read_bytes_per_s is not None:
                device = _disk_of(disk_of)
                if self._is_v1:
                    disk = self._make(ROOT / "blkio" / named["blkio"].lstrip("/") / name)
                    (disk / "blkio.throttle.read_bps_device").write_text(f"{device} {read_bytes_per_s}")
                else:
                    (self.memory / "io.max").write_text(f"{device} rbps={read_bytes_per_s}")
        except (OSError, KeyError) as error:
            self.close()
            raise NoGroupError(f"no control group with a limit can be made here ({error})") from None

    def enter(self, pid: int) -> None:
        """Put a process into the group; what it has already stays with its old one."""
        for group in self._groups:
            (group / "cgroup.procs").write_text(str(pid))

    def file_bytes(self) -> int:
        """Return the page cache that counts for the group."""
        return int(self._stat()["total_cache" if self._is_v1 else "file"])

    def close(self) -> None:
        for group in self._groups:
            if (group / "memory.force_empty").exists():
                (group / "memory.force_empty").write_text("0")
            group.rmdir()
        self._groups = []

    def _make(self, group: Path) -> Path:
        group.mkdir()
        self._groups.append(group)
        return group

    def _stat(self) -> dict[str, str]:
        return dict(line.split() for line in (self.memory / "memory.stat").read_text().splitlines())

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _disk_of(path: Path) -> str:
    """Return the major:minor number of the whole disk that a file lies on; limits are not for partitions."""
    device = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
    whole = block.parent if (block / "partition").exists() else block
    return (whole / "dev").read_text().strip()
