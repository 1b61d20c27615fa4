"""The tidy frame: what functions take that work on one."""

from __future__ import annotations

from typing import Any

import pandas as pd


def as_frame(data: Any, name: str = "frame") -> pd.DataFrame:
    """Return the tidy frame of a run or reproduction, or the frame itself (else TypeError)."""
    frame = getattr(data, "frame", data)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name} must be a run or its tidy frame, got {type(data).__name__}")
    return frame
