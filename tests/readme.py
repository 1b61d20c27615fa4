"""What the README states, made from ``data/``; ``python -m tests.readme`` writes it anew."""

import re
from pathlib import Path

import pandas as pd

import balloonlab as bl
from balloonlab.lab.report import render, render_contents, render_fuzz, to_text

TOP = Path(__file__).parents[1]
README = TOP / "README.md"


def blocks() -> dict[str, str]:
    """Text of each generated block by the name in its marker."""
    headline = bl.lab.Reproduction.load(TOP / "data" / "headline")
    hostile = pd.read_csv(TOP / "data" / "reliability" / "fuzz.csv")
    contents = pd.read_csv(TOP / "data" / "contents" / "contents.csv")
    return {
        "headline": to_text(render(headline)),
        "reliability": to_text(render_fuzz(hostile)),
        "contents": to_text(render_contents(contents)),
    }


def prose(text: str) -> str:
    """Leave out blocks of code and tables that are made from data."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def main() -> None:
    readme = README.read_text()
    for name, text in blocks().items():
        block = re.compile(rf"(<!-- {name} -->\n```text\n).*?(```)", re.DOTALL)
        readme = block.sub(lambda match, text=text: match[1] + text + match[2], readme)
    README.write_text(readme)
    bl.lab.write_numbers(TOP / "data")


if __name__ == "__main__":
    main()
