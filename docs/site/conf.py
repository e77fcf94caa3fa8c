"""The site: README, docs/, the report and the reference of `theory` as static pages.

`make site` builds it into build/site with Sphinx. The pages are those of the repository, where they
lie: links between them and to their figures are those of the Markdown. No page asks another server
for anything, and search runs in the browser.
"""

import pathlib
import re
import shutil
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

project = "Subliminal learning in JAX"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.githubpages"]
root_doc = "README"
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "theory/README.md", "experiments/LOG.md"),
    *("docs/*.md", "docs/site/*.rst"),
]
exclude_patterns = [".*", "build", "results", "tests"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 4
# A link to a folder leads to a list of files in the repository; here it is text.
suppress_warnings = ["myst.xref_missing"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and meanings stand in the docstrings
napoleon_use_ivar = True
napoleon_attr_annotations = False

CONTENTS = """

```{toctree}
:hidden:
:caption: Results
docs/site/report
docs/real-model
docs/mnist
docs/what-carries-the-trait
docs/theorem
docs/microworld
docs/questions
docs/failed
```

```{toctree}
:hidden:
:glob:
:caption: Full size
docs/full-size
docs/bring-your-own
docs/does-it-fit
docs/llm_*
```

```{toctree}
:hidden:
:glob:
:caption: Code
theory/README
docs/site/theory
docs/*
CONTRIBUTING
experiments/LOG
CHANGELOG
```
"""


def add_contents(app, name: str, source: list[str]) -> None:
    """Append the list of pages to the first one, which in the repository needs none."""
    if name == root_doc:
        source[0] += CONTENTS


def read_plainly(app, what, name, obj, options, lines: list[str]) -> None:
    """Make reStructuredText of a docstring: code is code, all else are letters."""
    if what == "module":  # has no sections, so what is indented is an example
        blocks = "\n".join(lines).split("\n\n")
        lines[:] = "\n\n".join(map(example_or_text, blocks)).splitlines()
    else:
        lines[:] = map(letters, lines)


def example_or_text(block: str) -> str:
    """A paragraph, as it stands if a line of it is indented."""
    if any(line.startswith(" ") for line in block.splitlines()):
        return "::\n\n" + textwrap.indent(block, "    ") + "\n"
    return "\n".join(map(letters, block.splitlines()))


def letters(line: str) -> str:
    """A line in which only `code` has a meaning."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # code that goes on in the next line
        parts = ["".join(parts)]
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", text) for text in parts[::2]]
    return "``".join(parts)


def add_report(app, error: Exception | None) -> None:
    """Write the report of the runs, and the first page under the name of an index."""
    if error is None:
        from experiments.report import page

        (app.outdir / "report.html").write_text(page.build(ROOT / app.config.results))
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app) -> None:
    """Called by Sphinx; `-D results=DIR` takes other runs than those checked in."""
    app.add_config_value("results", "experiments/results", "html", str)
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", read_plainly, priority=0)  # before napoleon
    app.connect("build-finished", add_report)
