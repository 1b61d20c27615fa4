"""``python -m balloonlab``."""

from .cli import main

main()
