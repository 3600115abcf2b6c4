"""Labels that are replaced by chance: how many, by what, and always the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.label_noise import LabelNoise
from pipeline.shards.keyed import make_key

NUM, CLASSES = 200_000, 10
IDS = np.arange(NUM, dtype=np.int64)
TRUE = IDS % CLASSES


@pytest.mark.parametrize("frac", [0.0, 0.2, 1.0])
def test_so_large_a_share_is_replaced_and_a_tenth_of_it_stays_right(frac: float) -> None:
    """Five standard deviations of the number that are wrong."""
    is_wrong = LabelNoise(frac=frac, num_classes=CLASSES, seed=1).applied(IDS, TRUE) != TRUE
    expected = frac * (CLASSES - 1) / CLASSES
    assert abs(is_wrong.mean() - expected) <= 5 * (expected * (1 - expected) / NUM) ** 0.5


def test_wholly_random_labels_are_even_and_say_nothing_of_the_true_ones() -> None:
    """Chi-squared of the table of true and drawn classes against independence: 99 entries are free, 180 is 5.7 sd."""
    drawn = LabelNoise(frac=1.0, num_classes=CLASSES, seed=1).applied(IDS, TRUE)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (TRUE, drawn), 1)
    expected = NUM / CLASSES**2
    assert ((table - expected) ** 2 / expected).sum() < 180


def test_a_samples_label_does_not_depend_on_the_batch_that_it_is_in() -> None:
    noise = LabelNoise(frac=0.4, num_classes=CLASSES, seed=1)
    whole = noise.applied(IDS, TRUE)
    shuffled = np.random.default_rng(0).permutation(NUM)
    assert np.array_equal(noise.applied(shuffled, TRUE[shuffled]), whole[shuffled])
    assert noise.applied(IDS[7:8], TRUE[7:8]) == whole[7:8]


def test_what_a_small_share_replaces_a_larger_one_replaces_by_the_same() -> None:
    few, more = (LabelNoise(frac=frac, num_classes=CLASSES, seed=1).applied(IDS, TRUE) for frac in (0.1, 0.3))
    changed = few != TRUE
    assert changed.sum() > 0.05 * NUM
    assert np.array_equal(few[changed], more[changed])


def test_another_seed_is_other_noise() -> None:
    first, second = (LabelNoise(frac=1.0, num_classes=CLASSES, seed=seed).applied(IDS, TRUE) for seed in (1, 2))
    assert abs((first == second).mean() - 1 / CLASSES) < 5 * (0.09 / NUM) ** 0.5


def test_without_noise_labels_are_as_they_were() -> None:
    assert np.array_equal(LabelNoise(frac=0.0, num_classes=CLASSES, seed=1).applied(IDS, TRUE), TRUE)


@pytest.mark.parametrize("frac", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(frac: float) -> None:
    with pytest.raises(ValueError, match="0 to 1 wanted"):
        LabelNoise(frac=frac, num_classes=CLASSES, seed=1)


def test_labels_are_those_of_the_specification() -> None:
    """docs/ORDER.md in whole numbers; runs with noisy labels rely on it."""
    key, mask = make_key("label noise", 7), (1 << 64) - 1

    def mix(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    bits = [mix((mix((number * 0x9E3779B97F4A7C15 + key) & mask) + key) & mask) for number in range(16)]
    expected = [(b % 2**32) * CLASSES // 2**32 if b // 2**32 < 2**31 else -1 for b in bits]
    found = LabelNoise(frac=0.5, num_classes=CLASSES, seed=7).applied(np.arange(16), np.full(16, -1)).tolist()
    assert found == expected == [-1, -1, 3, -1, -1, -1, -1, 2, 4, 1, 6, -1, -1, 5, 6, 9]
