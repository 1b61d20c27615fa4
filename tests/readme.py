"""Write the README's table anew from ``data/headline``: ``python -m tests.readme``."""

import re
from pathlib import Path

import balloonlab as bl
from balloonlab.lab.report import to_text

TOP = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- headline -->\n```text\n).*?(```)", re.DOTALL)


def main() -> None:
    readme = TOP / "README.md"
    text = to_text(bl.lab.Reproduction.load(TOP / "data" / "headline"))
    readme.write_text(BLOCK.sub(lambda match: match[1] + text + match[2], readme.read_text()))


if __name__ == "__main__":
    main()
