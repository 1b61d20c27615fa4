"""What a kernel needs of the processor: bit counts and ordered memory access.

numba has neither, so each is one LLVM instruction. Without the JIT the plain Python
function of the same name stands in (`balloonlab.kernels.plain`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import kernel

__all__ = [
    "atomic_xor",
    "clear_lowest",
    "copy_items",
    "fence",
    "load_acquire",
    "popcount",
    "store_release",
    "trailing_zeros",
]

if config.DISABLE_JIT:
    from .plain import (
        atomic_xor,
        clear_lowest,
        copy_items,
        fence,
        load_acquire,
        popcount,
        store_release,
        trailing_zeros,
    )

else:

    @intrinsic
    def trailing_zeros(typingctx: Any, word: Any) -> Any:
        """Index of the lowest set bit of a uint64, 64 for zero, as int64."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], cgutils.false_bit)

        return types.int64(types.uint64), generate

    @intrinsic
    def popcount(typingctx: Any, word: Any) -> Any:
        """Count the set bits of a uint64, as int64."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.ctpop(args[0])

        return types.int64(types.uint64), generate

    @kernel
    def clear_lowest(word):
        """Clear the lowest set bit of a uint64; zero stays zero."""
        return word & (word - np.uint64(1))

    @kernel
    def copy_items(there, here):
        """Copy an array into one of its size: a slice assigned takes seconds more to compile."""
        for i in range(here.size):
            there[i] = here[i]

    def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        struct = context.make_array(array_type)(context, builder, array)
        return cgutils.get_item_pointer(
            context, builder, array_type, struct, [index], wraparound=False
        )

    @intrinsic
    def load_acquire(typingctx: Any, array: Any, index: Any) -> Any:
        """Read ``array[index]``; later reads see what was stored before it."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], *args)
            return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

        return array.dtype(array, types.intp), generate

    @intrinsic
    def store_release(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
        """Set ``array[index]``; whoever sees it sees all earlier stores too."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
            builder.store_atomic(args[2], pointer, "release", array.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.none(array, types.intp, array.dtype), generate

    @intrinsic
    def atomic_xor(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
        """Do ``array[index] ^= value`` in one step: no other thread's change is lost."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
            builder.atomic_rmw("xor", pointer, args[2], "monotonic")
            return context.get_dummy_value()

        return types.none(array, types.intp, array.dtype), generate

    @intrinsic
    def fence(typingctx: Any) -> Any:
        """Order every earlier store before every later load (virtio's mb)."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.none(), generate
