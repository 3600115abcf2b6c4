"""One rank of a loop over a stream that meets the others in each step; started by test_stream_ranks.py.

python -m torch.distributed.run ... stream_rank.py OUT NUM_SAMPLES BATCH_SIZE SHARD...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed

from pipeline.shards.errors import run_entry_point
from pipeline.trainer_config import Device
from pipeline.world import join_world, leave_world
from stream_shards import open_loader


def main(argv: list[str]) -> int:
    out, shards = argv[0], argv[3:]
    num_samples, batch_size = map(int, argv[1:3])
    world = join_world(Device.cpu)
    sums = []
    for epoch in range(2):
        loader = open_loader(
            shards,
            num_samples=num_samples,
            batch_size=batch_size,
            rank=world.rank,
            world_size=world.size,
            first_step=epoch * (num_samples // batch_size),
        )
        try:
            for batch in loader:
                total = torch.tensor([len(batch), batch.step])
                distributed.all_reduce(total)
                sums.append(total.tolist())
        finally:
            loader.close()
            loader.reader.close()
    Path(f"{out}.{world.rank}").write_text(json.dumps(sums))
    leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
