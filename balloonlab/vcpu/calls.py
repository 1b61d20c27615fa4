"""Calling a compiled kernel by hand: its machine code, and its arguments as words.

The code is the very one that a thread runs, out of the same cache: numba hands every scalar of the
arguments over by itself, behind where the result and an exception's description go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core.registry import cpu_target

RESULT_WORDS = 8
WORD = 1 << 64


@dataclass(frozen=True)
class Call:
    """A compiled function's machine code and its arguments, which must stay alive meanwhile."""

    name: str
    address: int
    words: list[int]
    result: Any  # numba's type

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: tuple[Any, ...], counter: int) -> Call:
        """Compile a kernel for its arguments (integers, arrays, named tuples of them).

        `counter` is the address of the reference counter that all arrays have: counting costs what
        it costs anywhere, and never ends.
        """
        name = getattr(function, "__name__", repr(function))
        if not hasattr(function, "overloads"):
            raise TypeError(f"function must be a compiled kernel, got {function!r}")
        signature = tuple(numba.typeof(value) for value in arguments)
        function.compile(signature)  # type: ignore[attr-defined]
        compiled = function.overloads[signature]
        words = [
            word
            for value, kind in zip(arguments, signature, strict=True)
            for word in _words(value, kind, counter, name)
        ]
        result = compiled.signature.return_type
        _check(name, result, signature, len(words))
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        return cls(name, address, words, result)

    def read(self, result: npt.NDArray[np.int64]) -> Any:
        """Return what the function returned, of where it was written."""
        return None if self.result is types.none else int(result[0])


def _words(value: Any, kind: Any, counter: int, name: str) -> Iterator[int]:
    if isinstance(kind, types.Array):
        yield from (counter, 0, value.size, value.itemsize, value.ctypes.data)
        yield from (step % WORD for step in (*value.shape, *value.strides))
    elif isinstance(kind, types.BaseTuple):
        for part, part_kind in zip(value, kind, strict=True):
            yield from _words(part, part_kind, counter, name)
    elif isinstance(kind, types.Integer | types.Boolean):
        yield int(value) % WORD
    else:
        raise TypeError(f"{name} must take integers and arrays only in a vCPU, got {kind}")


def _check(name: str, result: Any, signature: tuple[Any, ...], n_words: int) -> None:
    """Refuse a result that is no integer, and arguments that numba does not hand over as words."""
    if not isinstance(result, types.Integer) and result is not types.none:
        raise TypeError(f"{name} must return an integer or nothing in a vCPU, it returns {result}")
    convention = cpu_target.target_context.call_conv
    n_expected = len(convention.get_function_type(result, signature).args) - 2
    if n_expected != n_words:
        raise TypeError(
            f"{name} must take {n_words} words of arguments, but this numba hands over "
            f"{n_expected}: this is a bug in balloonlab, please report it"
        )
