"""List every experiment with its one line and its expected runtime: `python -m experiments`."""

import ast
import pathlib
import textwrap

import experiments


def describe(name: str) -> tuple[str, str]:
    """First docstring line and RUNTIME of one experiment, read without importing it."""
    source = pathlib.Path(__file__).with_name(f"{name}.py").read_text()
    tree = ast.parse(source)
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
    lines = ["Run one with: python -m experiments.<name> [--smoke] [--out DIR] [--help]", ""]
    for name in experiments.NAMES:
        summary, runtime = describe(name)
        lines += textwrap.wrap(f"{name}  ({runtime})", 80, subsequent_indent="    ")
        lines += textwrap.wrap(summary, 80, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing())
