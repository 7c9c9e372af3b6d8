"""How Sphinx builds these pages: C{sphinx-build -W --keep-going -b html docs build/docs}."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from twisted_bioconn import __version__  # noqa: E402

project = "twisted_bioconn"
copyright = "its contributors, MIT license"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.intersphinx",
    "pydoctor.sphinx_ext.build_apidocs",
    "option_tables",
    "cause_tables",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_*"]
nitpicky = True
smartquotes = False  # what is typed stays as it is typed

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"twisted_bioconn {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False

# The docstrings are epytext, which pydoctor reads and autodoc does not.
pydoctor_args = [
    f"--project-base-dir={HERE.parent}",
    "--project-name=twisted_bioconn",
    f"--project-version={release}",
    "--project-url=../index.html",
    "--docformat=epytext",
    "--process-types",
    "--system-class=api_reference.System",
    f"--template-dir={HERE / '_api'}",
    "--html-output={outdir}/api",
    # What a name with an underscore does may change with each version, and so may the insides of
    # the server: its interfaces are the command line, the file and the endpoint strings.
    "--privacy=HIDDEN:**._[!_]*",
    "--privacy=HIDDEN:twisted_bioconn.server",
    str(HERE.parent / "twisted_bioconn"),
]
pydoctor_url_path = "api/"
