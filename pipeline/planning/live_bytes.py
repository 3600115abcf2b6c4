"""Bytes of the tensors that are alive, followed operation by operation; on the meta device they hold nothing.

    with LiveBytes() as followed:
        loss = model(pixels_BD).sum()           # all on torch.device("meta")
        saved_bytes = followed.live_bytes       # what the backward pass will want, and the loss
        loss.backward()
    followed.peak_bytes                         # the most at any moment
    followed.course                             # what was alive after each tensor that came
    followed.product_flop                       # of its matrix products, 2 a multiply-add
    followed.moved_bytes                        # read and written by everything else

Every operation passes a `TorchDispatchMode`, also those of the backward pass and of the optimiser. A storage counts
from the operation that returns it until its last tensor has gone, which a weak reference tells: as long as the C++
storage lives, so does its Python object. What a kernel takes for itself and gives back before it returns is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
# Make memory and leave it as it is.
UNWRITTEN = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered; tensors that were there before count where `add` is told of them.

    Attributes:
        live_bytes: of the tensors that are alive now.
        course: live bytes at the start, and after each new tensor.
        product_flop: of the matrix products so far.
        moved_bytes: that all other operations have read and written.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.product_flop = self.moved_bytes = 0
        self.course = [0]
        self._known = WeakIdKeyDictionary()

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that are alive already."""
        for tensor in tensors:
            self._count(tensor)

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Never count these, though an operation in place returns them."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()] = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether torch.compile is to be kept out, for which each operation would pass through a wrapper."""
        return False

    @property
    def peak_bytes(self) -> int:
        return max(self.course)

    def start_course(self) -> None:
        """Forget what has been alive so far."""
        self.course = [self.live_bytes]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        flop = product_flop(func, args)
        self.product_flop += flop
        if not flop:
            self.moved_bytes += moved_bytes(func, (args, kwargs), found)
        for tensor in _tensors(found):
            self._count(tensor)
        return found

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        size_bytes = storage.nbytes()
        self.live_bytes += size_bytes
        self.course.append(self.live_bytes)
        weakref.finalize(storage, self._drop, size_bytes)

    def _drop(self, size_bytes: int) -> None:
        self.live_bytes -= size_bytes


def product_flop(operation: Any, arguments: Any) -> int:
    """Return 2*m*k*n for a product of (m, k) and (k, n) matrices, 0 for any other operation."""
    if operation == aten.mm.default:
        left, right = arguments[:2]
    elif operation == aten.addmm.default:
        left, right = arguments[1:3]
    else:
        return 0
    return int(2 * left.shape[0] * left.shape[1] * right.shape[1])


def moved_bytes(operation: Any, arguments: Any, found: Any) -> int:
    """Return what an operation reads of its arguments and writes; a view moves nothing, nor does new memory alone."""
    if operation in UNWRITTEN:
        return 0
    given, made = _tensors(arguments), _tensors(found)
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    written = made
    if not operation._schema.is_mutable:
        written = [tensor for tensor in made if tensor.untyped_storage()._cdata not in storages]
    return sum(tensor.nbytes for tensor in (*given, *written)) if written else 0


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
