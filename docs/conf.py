"""How the site is made: ``make docs``. Nothing is loaded from elsewhere: it can be read offline."""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

import parallelkit
from parallelkit.options import NAMES

project = "parallelkit"
author = "parallelkit developers"
copyright = "2026, parallelkit developers"  # noqa: A001 - Sphinx's name
version = release = parallelkit.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc says the types in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "tango"

html_theme = "pydata_sphinx_theme"
html_title = "parallelkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {page: [] for page in ("index", "start", "benchmarks", "genindex", "search")}
html_theme_options = {
    "logo": {"text": "parallelkit"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def check_names(app: Sphinx) -> None:
    """Warn of public names that the reference lacks, and of options that their page lacks."""
    docs = Path(app.srcdir)
    reference = (docs / "reference" / "api.md").read_text(encoding="utf-8").split()
    options = (docs / "options.md").read_text(encoding="utf-8")
    log = logging.getLogger(__name__)
    for name in parallelkit.__all__:
        if name not in reference:
            log.warning("reference/api.md does not list parallelkit.%s", name)
    for name in NAMES:
        if f"`{name}`" not in options:
            log.warning("options.md does not tell of the option %s", name)


def setup(app: Sphinx) -> None:
    """Connect what is checked."""
    app.connect("builder-inited", check_names)
