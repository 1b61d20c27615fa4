"""Build balloonlab's site: ``python notebooks/site [FOLDER]``, by default ``build/site``.

The notebooks stay as they were committed; nothing is measured or run. A warning (a link that leads
nowhere, a name that is none, a docstring that is no numpydoc) fails the build.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from pages import write_pages
from sphinx.cmd.build import build_main

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]


def main() -> int:
    """Write the sources to a temporary folder and have Sphinx build them; 0 where all is well."""
    parser = argparse.ArgumentParser("python notebooks/site", description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="build/site", help="where the site goes")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as sources:
        write_pages(TOP, Path(sources))
        strict, quiet = ["-W", "--keep-going"], ["-q", "-d", f"{sources}/.doctrees"]
        failed = build_main([*strict, *quiet, "-c", str(HERE), sources, folder])
    if not failed:
        print(f"{folder}/index.html")
    return failed


if __name__ == "__main__":
    sys.exit(main())
