"""All commands: importing them adds them to the one ``app``."""

from . import campaigning, drawing, encoding, freeing, guests, measuring, predicting, selftests  # noqa: F401
from .app import app

__all__ = ["app"]
