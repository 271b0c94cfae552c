"""Settings of the documentation site: `make docs` builds it into `build/site`.

The source folder is that of the repository, so README and ARCHITECTURE are pages, too, and links are the same in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from syncline.version import __version__ as release  # noqa: E402 - found by the line above

project = "Syncline"
author = "Syncline contributors"
copyright = "Syncline contributors, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/README.md",
    "docs/**.md",
    "examples/**/README.md",
]
exclude_patterns = [".*", "build", "dist", "data", "syncline-data*", "src", "tests", "**/node_modules"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "syncline_site"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
pygments_style = "friendly"
pygments_dark_style = "github-dark"

OF_OTHERS = "Struct, _StructMixin, Future, int, str, Enum, Mapping, Machine, Exception, BaseException, OSError"
"""Classes whose methods are not listed again in those that inherit from them."""
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "inherited-members": OF_OTHERS, "exclude-members": "__new__"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"Syncline {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
DIAGRAMS = HERE.parent / "build" / "diagrams" / "mermaid.min.js"
if DIAGRAMS.exists():  # `make docs` fetches it
    html_static_path.append(str(DIAGRAMS))
html_show_sphinx = False
html_copy_source = True
html_last_updated_fmt = None
html_theme_options = {
    "source_repository": "https://github.com/syncline/syncline/",
    "source_branch": "main",
    "source_directory": "",
    "light_css_variables": {"color-brand-primary": "#0b57a4", "color-brand-content": "#0b57a4"},
    "dark_css_variables": {"color-brand-primary": "#7cb8ff", "color-brand-content": "#7cb8ff"},
}
