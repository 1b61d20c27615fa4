"""``python -m balloonlab``."""

from .cli import main

if __name__ == "__main__":
    main()
