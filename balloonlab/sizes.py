"""Sizes in and out: ``"8GiB"`` to bytes and back; GiB means 2**30."""

from __future__ import annotations

import operator
import re
from typing import TypeAlias

import humanize

Size: TypeAlias = int | str

__all__ = [
    "GIB", "HUGE_BYTES", "KIB", "MIB", "PAGE_BYTES", "TIB", "format_measured", "format_number",
    "format_size",
]  # fmt: skip
__all__ += ["parse_pages", "parse_size"]

PAGE_BYTES = 4096
"""Bytes of a page."""

KIB = 1 << 10
"""Bytes of 1 KiB."""

MIB = 1 << 20
"""Bytes of 1 MiB."""

GIB = 1 << 30
"""Bytes of 1 GiB."""

TIB = 1 << 40
"""Bytes of 1 TiB."""

HUGE_BYTES = 2 * MIB
"""Bytes of a huge page, where pages have 4 KiB."""

_UNITS = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(size: Size, name: str = "size") -> int:
    """Return a size in bytes.

    Parameters
    ----------
    size : int or str
        Bytes, or a number with one of the units B, KiB, MiB, GiB, TiB.
    name : str
        The argument's name, for error messages.

    Raises
    ------
    TypeError, ValueError
        `size` is neither an integer nor a string; the unit is unknown, or the size is negative or
        no whole number of bytes.

    Examples
    --------
    >>> parse_size("8GiB")
    8589934592
    """
    if isinstance(size, str):
        match = _PATTERN.fullmatch(size)
        unit = _UNITS.get(match[2]) if match else None
        if match is None or unit is None:
            raise ValueError(
                f"{name} must be a number of bytes or a number with one of the units "
                f"{', '.join(filter(None, _UNITS))} (as in '8GiB'), got {size!r}{_nearest(match)}"
            )
        number = float(match[1]) * unit if "." in match[1] else int(match[1]) * unit
        if number != int(number):
            raise ValueError(f"{name} must be a whole number of bytes, got {size!r}")
        return int(number)
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(
            f"{name} must be bytes (int) or a string such as '8GiB', "
            f"got {size!r} of type {type(size).__name__}"
        )
    n_bytes = operator.index(size)
    if n_bytes < 0:
        raise ValueError(f"{name} must not be negative, got {n_bytes}")
    return n_bytes


def _nearest(match: re.Match[str] | None) -> str:
    """Suggest the binary unit of what was meant: ``8GB``, ``8g`` and ``8gib`` are ``8GiB``."""
    if match is None or not re.fullmatch("[KMGT](i?B)?", match[2], re.I):
        return ""
    return f"; units are binary here: {match[1]}{match[2][0].upper()}iB"


def parse_pages(size: Size, name: str = "size") -> int:
    """Return a size in 4 KiB pages.

    Parameters and errors as `parse_size`; besides, a size that is no multiple of
    4 KiB raises ``ValueError``.
    """
    n_bytes = parse_size(size, name)
    if n_bytes % PAGE_BYTES:
        raise ValueError(
            f"{name} must be a multiple of the 4 KiB page, got {size!r} "
            f"({n_bytes} bytes, {n_bytes % PAGE_BYTES} too many)"
        )
    return n_bytes // PAGE_BYTES


def format_size(n_bytes: int) -> str:
    """Return a size as text for people: ``format_size(7 << 30)`` is ``"7 GiB"``."""
    return humanize.naturalsize(n_bytes, binary=True, format="%.4g").replace("Bytes", "B")


def format_number(value: float, digits: int = 3) -> str:
    """Write a number for people: to some digits, never as a power of ten, ``-`` for NaN.

    Of large numbers all digits before the point are kept, of small ones four behind it.

    Examples
    --------
    >>> [format_number(value) for value in (1021.4, 9.669, 8e-05, -0.00001)]
    ['1,021', '9.67', '0.0001', '0']
    """
    if value != value:
        return "-"
    if float(value).is_integer() or abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{float(f'{value:.{digits}g}'):.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_measured(value: float, unit: str = "") -> str:
    """Write what was measured for people: two digits, of nearly 100 % as many as tell it from all.

    Examples
    --------
    >>> [format_measured(value) for value in (5147.1, 9.04, 0.0421, -0.00001)]
    ['5,100', '9.0', '0.042', '0']
    >>> format_measured(99.72, "%")
    '99.7'
    """
    if value != value:
        return "-"
    digits = 2
    if unit == "%" and 99 < value < 100:
        digits = next((n for n in (3, 4) if float(f"{value:.{n}g}") < 100), 2)
    rounded = float(f"{value:.{digits}g}")
    small = 0.001 <= abs(rounded) < 10 ** (digits - 1)
    return f"{rounded:#.{digits}g}" if small else format_number(rounded, digits)


def __dir__() -> list[str]:
    return __all__
