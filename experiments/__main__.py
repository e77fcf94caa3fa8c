"""The one door: `python -m experiments` lists, `python -m experiments NAME` runs."""

import ast
import difflib
import os
import sys
import textwrap
from collections.abc import Sequence

import experiments
from experiments.frame import cli, compiling

TOOLS = {
    "report": "Collect the runs of a folder into one self-contained page, page.html.",
    "card": "One run on one page: model, data, seeds, versions, every number, examples.",
    "docs": "Write README.md and docs/ from their templates and the checked-in tables.",
    "reproduce": "Run the short ones at laptop size, then make the report.",
}
INDENT = " " * 6


def describe(name: str) -> tuple[str, str]:
    """First docstring line and RUNTIME of one experiment, read without importing it."""
    tree = ast.parse(experiments.path_of(name).read_text())
    runtimes = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "RUNTIME"
        and isinstance(node.value, ast.Constant)
    ]
    return (ast.get_docstring(tree) or "").splitlines()[0], str(runtimes[0])


def listing() -> str:
    """The text that `python -m experiments` prints, at most 80 columns wide."""
    lines = ["Run one with: python -m experiments NAME [--smoke] [--out DIR] [--help]"]
    for room in experiments.ROOMS:
        lines += ["", f"{room}/"]
        for name in experiments.NAMES:
            if experiments.path_of(name).parent.name == room:
                summary, runtime = describe(name)
                lines += textwrap.wrap(f"  {name}  ({runtime})", 80, subsequent_indent=INDENT)
                lines += textwrap.wrap(summary, 80, initial_indent=INDENT, subsequent_indent=INDENT)
    lines += ["", "and"]
    for name, summary in TOOLS.items():
        lines += [f"  {name}", *textwrap.wrap(summary, 80, initial_indent=INDENT)]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """List, or hand the flags to the experiment or tool that is named."""
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return
    name, *flags = argv
    if name in TOOLS:
        from experiments.frame import reproduce
        from experiments.report import card, docs, page

        tools = {"report": page, "card": card, "docs": docs, "reproduce": reproduce}
        tools[name].main(flags)
        return
    if name not in experiments.NAMES:
        known = (*experiments.NAMES, *TOOLS)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "python -m experiments lists them"
        cli.fail("", f"no experiment {name!r}; {hint}")
    if "--smoke" in flags:  # of its seconds most are compilation, so do that quickly
        os.environ.setdefault("XLA_FLAGS", compiling.quickly(level=1))
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
    from experiments.frame import experiment

    experiment.main(experiments.load(name), flags)


if __name__ == "__main__":
    main(sys.argv[1:])
