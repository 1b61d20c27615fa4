"""Settings of Sphinx for balloonlab's site; `python notebooks/site` builds it."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for references.py

project = "balloonlab"
author = "The balloonlab developers"
version = release = version_of(project)

extensions = ["numpydoc", "myst_nb", "references"]
nitpicky = True  # a name in backticks that is nowhere fails the build

default_role = "py:obj"
autodoc_typehints = "none"  # numpydoc has them, with shapes and units
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # they are on the page of their part, in full

nb_execution_mode = "off"  # notebooks are shown as they are committed
nb_mime_priority_overrides = [("html", "image/png", 0), ("html", "text/html", 1)]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
alone = ("index", "columns", "data/README", "CONTRIBUTING", "CHANGELOG")
html_sidebars = {page: [] for page in alone}  # nothing is below or beside them
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": [],  # no dark theme: pictures are drawn on white
    "header_links_before_dropdown": 6,
    "collapse_navigation": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_context = {"default_mode": "light"}
