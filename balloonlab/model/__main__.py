"""Make ``data/model`` anew: the evidence of all shipped runs, the costs, and how good they are.

``python -m balloonlab.model FOLDER``; five minutes.
"""

import sys
from pathlib import Path

import pandas as pd

from .evidence import gather_shipped
from .joint import fit
from .validation import validate

LEFT_OUT = ("memory_bytes", "pattern", "run", "traces")


def main(folder: str) -> None:
    """Write ``evidence.csv``, ``costs.json`` and ``validation.csv``."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    table = gather_shipped()
    table.to_csv(out / "evidence.csv", index=False)
    fit(table).save(out / "costs.json")
    checked = [validate(table, by).assign(left_out=by) for by in LEFT_OUT]
    pd.concat(checked, ignore_index=True).to_csv(out / "validation.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
