"""The batch below which ranks wait for each other: what is measured, on real ranks, and that nothing stays of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from pipeline.track import exchange
from pipeline.track.ceilings import HowUpdated
from pipeline.track.exchange import network_bound
from spawned import on_ranks
from test_ceilings import SLOTS, make_batch, make_module


def bound_of(rank: int, compresses: bool) -> tuple[float | None, str, list[str], bool]:
    """Return the bound with an exchange of 12 ms and a pass of 3 ms, the types exchanged, and whether all is as before.

    In the first turn both are measured.
    """
    torch.manual_seed(0)
    module, batch, how = make_module(), make_batch(), HowUpdated(compresses=compresses)
    module.model.append(torch.nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    measured = network_bound(module, batch, how=how, max_s=0.01)
    assert measured.images is not None
    assert measured.images > 0
    types, all_reduce, times = [], distributed.all_reduce, iter([0.012, 0.003])

    def noted(tensor: torch.Tensor, *options: Any) -> None:
        types.append(str(tensor.dtype))
        all_reduce(tensor, *options)

    def timed(run: Callable[[], object], **_: object) -> float:
        run()
        return next(times)

    distributed.all_reduce = noted  # type: ignore[assignment]
    exchange.mean_s = timed
    found = network_bound(module, batch, how=how, max_s=0.01)
    same = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return found.images, found.source, types, same and all(one.grad is None for one in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("compresses", "dtype"), [(False, "torch.float32"), (True, "torch.bfloat16")])
def test_it_is_the_batch_whose_passes_take_as_long_as_its_exchange(
    tmp_path: Path, compresses: bool, dtype: str
) -> None:
    """Four times a rank's batch, on each of two ranks."""
    for images, source, types, same in on_ranks(2, bound_of, tmp_path, compresses):
        assert images == pytest.approx(4 * SLOTS * 2)
        assert source == "an exchange takes 12 ms, a pass over 4 images 3 ms"
        assert types == [dtype]
        assert same


def test_one_rank_exchanges_nothing() -> None:
    bound = network_bound(make_module(), make_batch(), how=HowUpdated(), max_s=0.01)
    assert (bound.images, bound.source) == (None, "one rank exchanges nothing")
