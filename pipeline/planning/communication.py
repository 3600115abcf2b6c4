"""What ranks send each other for one update, and when it takes longer than computing. Pure arithmetic.

    sent = ring_all_reduce_bytes(4 * 124_840_000, ranks=8)          # 873_880_000 bytes from each rank, as many to it
    break_even_slots(sent_bytes=sent, flop_per_sample=749e6, flops_per_s=60e12, bytes_per_s=200e9)      # 350 samples

A ring all-reduce of S bytes over N ranks is a reduce-scatter and an all-gather, (N-1)/N * S bytes each way and rank
(Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms"; none sends less). Fully sharded training gathers
the weights twice (forward, backward) and reduce-scatters the gradients once: 3 instead of 2 (ZeRO, arXiv 1910.02054,
section 7).

An MLP shares no weights: a sample costs about 6 FLOP a weight and an update sends 8 (N-1)/N bytes a weight, whatever
the model's size, so the local batch at which both take equally long is 4/3 * (N-1)/N * (FLOP/s)/(bytes/s). A
convolution, which uses a weight at every place of the image, breaks even at a batch smaller by that factor.
"""

from __future__ import annotations


def ring_all_reduce_bytes(size_bytes: float, *, ranks: int) -> float:
    """Return what each rank sends, and receives, to sum `size_bytes` over all ranks."""
    return 2 * ring_pass_bytes(size_bytes, ranks=ranks)


def ring_pass_bytes(size_bytes: float, *, ranks: int) -> float:
    """Return what each rank sends to gather `size_bytes` that lie in equal parts on all ranks, or to scatter a sum."""
    return size_bytes * (ranks - 1) / ranks


def sharded_bytes(weight_bytes: float, gradient_bytes: float, *, ranks: int, micro_batches: int = 1) -> float:
    """Return what each rank sends for an update of fully sharded training: weights are gathered in every pass."""
    gathered = 2 * micro_batches * ring_pass_bytes(weight_bytes, ranks=ranks)
    return gathered + ring_pass_bytes(gradient_bytes, ranks=ranks)


def break_even_slots(*, sent_bytes: float, flop_per_sample: float, flops_per_s: float, bytes_per_s: float) -> float:
    """Return the local batch, per update, at which computing takes as long as sending."""
    return sent_bytes / bytes_per_s * flops_per_s / flop_per_sample


def exposed_s(*, sent_s: float, backward_s: float) -> float:
    """Return what of the sending is left when the backward pass has ended, which it runs beside."""
    return max(0.0, sent_s - backward_s)


def mlp_break_even_slots(*, ranks: int, flops_per_s: float, bytes_per_s: float, bytes_per_weight: float = 4) -> float:
    """Return `break_even_slots` of an all-reduce for any wide MLP: 6 FLOP a weight, however many there are."""
    sent_per_weight = ring_all_reduce_bytes(bytes_per_weight, ranks=ranks)
    return break_even_slots(
        sent_bytes=sent_per_weight, flop_per_sample=6, flops_per_s=flops_per_s, bytes_per_s=bytes_per_s
    )
