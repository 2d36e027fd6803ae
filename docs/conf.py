"""The documentation as one site: `make docs`, then open site/index.html.

Sources are the pages that the repository shows, so a link works in both places.
"""

project = "chapterflow"
root_doc = "docs/index"
include_patterns = [
    "README*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "docs/**",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
# Answers in JSON have parts left out: `[...]`.
suppress_warnings = ["misc.highlighting_failure"]
autodoc_typehints = "description"
html_theme = "furo"
html_title = "chapterflow"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "start.html"}
