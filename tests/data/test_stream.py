"""Streams through the webdataset library: what they keep of order, ranks and epochs."""

from __future__ import annotations

import logging
import random
import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from pipeline.data.counting import counters_of
from pipeline.data.crop import RandomCrop
from pipeline.data.loader import BatchLoader
from pipeline.data.order import SequentialOrder
from pipeline.data.stream import StreamOrder
from pipeline.data.stream_source import expand_shards, shuffled
from pipeline.shards.errors import UserError
from served import served
from stream_shards import NUM, Known, drain, open_loader, open_reader, pixels_of, png


def test_one_pass_of_one_rank_has_every_sample_once_with_its_pixels_and_label(shards: list[str]) -> None:
    found = list(chain.from_iterable(drain(shards, shuffle_samples=0)))
    assert sorted(found) == list(range(NUM))
    assert found != sorted(found)
    for buffer in (1, 5, 1000):
        twice = list(chain.from_iterable(drain(shards, num_samples=2 * NUM, shuffle_samples=buffer)))
        assert sorted(twice[:NUM]) == sorted(twice[NUM:]) == list(range(NUM))
        assert twice[:NUM] != twice[NUM:]


def test_files_urls_and_commands_give_the_same_samples(shards: list[str]) -> None:
    expected = drain(shards)
    folder = Path(shards[0]).parent
    with served(folder) as url:
        assert drain([f"{url}/{Path(shard).name}" for shard in shards]) == expected
    assert drain([f"pipe:cat {shlex.quote(shard)}" for shard in shards]) == expected
    assert drain([Path(shard).as_uri() for shard in shards]) == expected
    assert drain([f"pipe:gzip -c {shlex.quote(shard)}" for shard in shards]) == expected


def test_an_epoch_is_a_function_of_seed_epoch_and_rank_whatever_the_threads(shards: list[str]) -> None:
    first = drain(shards, threads=1)
    assert drain(shards, threads=5) == first
    assert drain(shards, first_step=NUM // 4) != first
    both = [drain(shards, rank=rank, world_size=2) for rank in range(2)]
    assert both[0] != both[1]
    assert list(chain.from_iterable(drain(shards, micro_slots=3))) == list(chain.from_iterable(first))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("resampled", [False, True])
def test_ranks_take_equal_steps_however_unequal_their_shards(
    shards: list[str], world_size: int, resampled: bool
) -> None:
    """An epoch of three times the samples: short shards come again, no rank runs dry."""
    for rank in range(world_size):
        batches = drain(
            shards, num_samples=3 * NUM, batch_size=8, rank=rank, world_size=world_size, resampled=resampled
        )
        assert [len(batch) for batch in batches] == [8 // world_size] * (3 * NUM // 8)


def test_the_first_pass_of_all_ranks_has_no_sample_twice(shards: list[str]) -> None:
    found: Counter[int] = Counter()
    for rank in range(2):
        # As many as the smaller of the two shares surely has: the one of shards with 1 and 2 samples.
        found.update(chain.from_iterable(drain(shards, num_samples=6, batch_size=2, rank=rank, world_size=2)))
    assert max(found.values()) == 1


def test_fewer_shards_than_ranks_are_refused_at_once_unless_resampled(shards: list[str]) -> None:
    with pytest.raises(UserError, match=r"5 shards cannot be dealt to 6 ranks.*stream_resampled=true"):
        open_reader(shards, num_samples=60, rank=0, world_size=6)
    for rank in range(6):
        assert len(drain(shards, num_samples=60, batch_size=12, rank=rank, world_size=6, resampled=True)) == 5


def test_a_resumed_epoch_has_the_steps_that_are_left(shards: list[str]) -> None:
    assert len(drain(shards, num_samples=40, batch_size=4, first_step=7)) == 3
    assert len(drain(shards, num_samples=40, batch_size=4, first_step=10)) == 10


def test_positions_and_ids_are_running_numbers() -> None:
    order = StreamOrder(num_samples=11, batch_size=5)
    assert order.steps_per_epoch == 2
    slots = order.global_batch(epoch=3, step=1)
    assert slots.positions.tolist() == [5, 6, 7, 8, 9]
    assert slots.sample_ids.tolist() == [35, 36, 37, 38, 39]
    assert slots.weights.tolist() == [1] * 5


def test_what_is_lacking_is_said_once(shards: list[str], caplog: pytest.LogCaptureFixture) -> None:
    loader = open_loader(shards, num_samples=8, batch_size=4)
    for _ in range(3):
        assert len(list(loader)) == 2
    loader.close()
    loader.reader.close()
    open_reader(shards, num_samples=8, rank=1, world_size=2)
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    for word in ("order", "resuming", "checksums", "once an epoch", "data_prep.index"):
        assert word in said[0]


def test_evaluation_reads_each_sample_once_over_any_number_of_ranks(shards: list[str]) -> None:
    for world_size in (1, 2, 3):
        found: Counter[int] = Counter()
        for rank in range(world_size):
            reader = open_reader(shards, num_samples=NUM, rank=rank, world_size=world_size, in_order=True)
            order = SequentialOrder(num_samples=NUM, batch_size=5 * world_size)
            loader = BatchLoader(reader, order, rank=rank, world_size=world_size)
            for _ in range(2):
                for batch in loader:
                    for number, weight, sample_id in zip(
                        Known(NUM).numbers(batch.images_BHWC), batch.weights_B.tolist(), batch.sample_ids, strict=True
                    ):
                        assert number == sample_id
                        found[number] += int(weight)
            loader.close()
            reader.close()
        assert found == dict.fromkeys(range(NUM), 2)


@pytest.mark.parametrize(("said", "found"), [(NUM + 1, f"only {NUM}"), (NUM - 1, f"more than {NUM - 1}")])
def test_evaluation_of_another_number_of_samples_than_said_is_an_error(
    shards: list[str], said: int, found: str
) -> None:
    reader = open_reader(shards, num_samples=said, in_order=True)
    loader = BatchLoader(reader, SequentialOrder(num_samples=said, batch_size=4), rank=0, world_size=1)
    with pytest.raises(UserError, match=f"{found} samples to evaluate on, data.val_stream_samples={said} said"):
        list(loader)
    reader.close()


def test_a_slot_is_filled_once(shards: list[str]) -> None:
    loader = open_loader(shards, num_samples=8, batch_size=4)
    iterator = iter(loader)
    batch = next(iterator)
    slots = StreamOrder(num_samples=8, batch_size=4).global_batch(epoch=0, step=0)
    with pytest.raises(ValueError, match="fills each slot once"):
        loader.reader.fill(slots, epoch=0, out=batch.images_BHWC)
    loader.close()
    loader.reader.close()


def test_random_crops_follow_from_the_number_in_the_stream_whatever_the_threads(shards: list[str]) -> None:
    def images(threads: int, seed: int = 1) -> torch.Tensor:
        crop = RandomCrop(seed=seed)
        loader = open_loader(shards, num_samples=NUM, batch_size=NUM, crop=crop, threads=threads)
        (batch,) = loader
        loader.close()
        loader.reader.close()
        return batch.images_BHWC

    assert torch.equal(images(1), images(4))
    assert not torch.equal(images(1), images(1, seed=2))


def test_bytes_and_decoding_are_counted(shards: list[str]) -> None:
    loader = open_loader(shards, num_samples=NUM, batch_size=NUM)
    list(loader)
    counters = counters_of(loader.reader)
    loader.close()
    loader.reader.close()
    assert counters["read_bytes"] >= sum(len(png(pixels_of(number))) for number in range(NUM))
    assert counters["decode_s"] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a{1,2}::b.tar", ["a1", "a2", "b.tar"]),
        (["a{1..2}", "c"], ["a1", "a2", "c"]),
        ("pipe:awk '{print}' x", ["pipe:awk '{print}' x"]),
    ],
)
def test_names_expand_as_in_webdataset(text: str | list[str], expected: list[str]) -> None:
    assert list(expand_shards(text)) == expected
    if isinstance(text, str):
        assert webdataset.shardlists.expand_urls(text) == expected


@pytest.mark.parametrize("text", ["", [], "a{1..2", "a{0..9999999999}"])
def test_names_that_do_not_expand_are_refused(text: str | list[str]) -> None:
    with pytest.raises(UserError):
        expand_shards(text)


def test_the_buffer_gives_each_sample_once_and_holds_no_more_than_it_may() -> None:
    given: list[int] = []
    most = 0

    def source() -> Iterator[dict[str, Any]]:
        for number in range(1000):
            nonlocal most
            most = max(most, number - len(given))
            yield {"x": bytes([number % 256]) * 100, "__key__": str(number)}

    for sample in shuffled(source(), num_samples=50, draw=random.Random(0)):
        given.append(int(sample["__key__"]))  # noqa: PERF401  # the source looks at how many were given
    assert len(given) == len({*given}) == 1000
    assert most <= 51
    assert sum(abs(place - number) for place, number in enumerate(given)) / 1000 > 20
