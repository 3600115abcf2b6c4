"""How much memory there is for data, and whether the data fits it.

    available_bytes()                                                   # 9_400_000_000 of a device with 11 GB
    paging_budget(data_bytes=300e9, available_bytes=9.4e9, num_ranks=1) # 4_700_000_000: read ahead within these
    paging_budget(data_bytes=5e9, available_bytes=9.4e9, num_ranks=1)   # None: all of it stays in memory
    window_bytes(lanes=8, window_chunks=4, chunk_bytes=16 << 20)        # 603_979_776: what window order needs of it

Memory means what the kernel can give without swapping: MemAvailable of the machine, or less where a control group
(a container, a Slurm job, a systemd scope) has a limit. What such a group holds of files can be given back, so it
counts as available.
"""

from __future__ import annotations

import os
from pathlib import Path

# Data up to this share of the memory stays there as a whole, once it was read; the rest is for everything else.
FITTING_FRAC = 0.7
# Of data that does not fit, the share of the memory that is held at a time, by all ranks of a host together. The other
# half is for the model, the optimiser and the batches.
PAGING_FRAC = 0.5


def paging_budget(*, data_bytes: float, available_bytes: float, num_ranks: int) -> int | None:
    """Return how many bytes of the data each rank of a host should hold at a time; None: all, since it fits.

    Args:
        data_bytes: of all shards that the ranks of the host read, over the whole run; ranks share the page cache.
        num_ranks: on this host.
    """
    if data_bytes <= FITTING_FRAC * available_bytes:
        return None
    return int(PAGING_FRAC * available_bytes / num_ranks)


def window_bytes(*, lanes: int, window_chunks: int, chunk_bytes: int) -> int:
    """Return the budget below which a rank that reads so many lanes reads data more than once an epoch.

    A window stays until its last sample is used, and the next one of a lane comes in meanwhile: lanes change windows
    one after the other. An eighth of the windows more is room for the reading itself.
    """
    return (lanes * window_chunks + window_chunks) * chunk_bytes * 9 // 8


def available_bytes(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process can use for data: the machine's or its control group's, what is less."""
    return min([_machine_bytes(proc), *_group_bytes(proc, groups)])


def _machine_bytes(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    # Not Linux: half of what the machine has.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_bytes(proc: Path, groups: Path) -> list[int]:
    """Return what is left in the process's control group and in each above it that has a limit; cgroup v1 and v2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, names = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif controllers == "":
            root, names = groups, ("memory.max", "memory.current", "")
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        # In a container the path may be the host's, where the group itself is mounted as the root.
        each = (_left_in(root.joinpath(*parts[:depth]), *names) for depth in range(len(parts) + 1))
        left.extend(found for found in each if found is not None)
    return left


def _left_in(group: Path, limit_name: str, usage_name: str, prefix: str) -> int | None:
    """Return limit - usage + what is held of files, of one group; None where it has no limit or is not there."""
    try:
        limit, usage = (group / limit_name).read_text().strip(), int((group / usage_name).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # v1 says "no limit" by a number beyond all memories.
    if limit == "max" or int(limit) >= 1 << 60:
        return None
    files = int(stat.get(f"{prefix}inactive_file", 0)) + int(stat.get(f"{prefix}active_file", 0))
    return max(0, int(limit) - usage + files)
