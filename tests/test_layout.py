"""Who may import whom: theory <- mnist_mlp <- experiments and theory <- llm <- experiments.

Inside experiments: findings <- frame <- rooms <- report, and no room knows another.
"""

import ast
import graphlib
import pathlib
import re

import pytest

import experiments

ALLOWED = {
    "theory": {"theory"},
    "mnist_mlp": {"mnist_mlp", "theory"},
    "llm": {"llm", "theory"},
    "experiments": {"experiments", "mnist_mlp", "llm", "theory"},
}
EVERYTHING = {*ALLOWED, "benchmarks", "tests"}
INSIDE = {
    "findings": {"findings"},
    "frame": {"findings", "frame"},
    **{room: {"findings", "frame", room} for room in experiments.ROOMS},
    "report": {"findings", "frame", "report", *experiments.ROOMS},
}


def imported(path: pathlib.Path) -> set[str]:
    """Top-level names a file imports absolutely."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", ALLOWED)
def test_import_directions(folder, repository):
    files = list((repository / folder).rglob("*.py"))
    assert files
    for path in files:
        foreign = imported(path) & EVERYTHING - ALLOWED[folder]
        assert not foreign, f"{path} imports {foreign}"


def dotted(node: ast.AST) -> str:
    """A chain of attributes as text, empty if it does not begin with a name."""
    if isinstance(node, ast.Attribute):
        return f"{root}.{node.attr}" if (root := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def mentioned(source: str, package: str) -> set[str]:
    """Dotted names that a module imports, reaches by attributes, or loads by name.

    Args:
        source: of the module.
        package: that it lies in, for relative imports.
    """
    nodes, names = list(ast.walk(ast.parse(source))), set()
    by_name = any(dotted(node) == "experiments.load" for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = [*(above if node.level else []), *filter(None, [node.module])]
            names |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(dotted(node))
        elif isinstance(node, ast.Constant) and isinstance(text := node.value, str):
            if re.fullmatch(r"experiments(\.\w+)+", text):
                names.add(text)
            if by_name and text in experiments.NAMES:
                names.add(f"experiments.{experiments.path_of(text).parent.name}.{text}")
    return names


def reached(source: str, package: str) -> set[str]:
    """The folders of experiments that a module knows."""
    parts = (name.split(".") for name in mentioned(source, package))
    return {part[1] for part in parts if part[0] == "experiments" and len(part) > 1} & {*INSIDE}


@pytest.mark.parametrize("folder", INSIDE)
def test_directions_inside_experiments(folder, repository):
    files = list((repository / "experiments" / folder).rglob("*.py"))
    assert files
    for path in files:
        package = ".".join(path.parent.relative_to(repository).parts)
        foreign = reached(path.read_text(), package) - INSIDE[folder]
        assert not foreign, f"{path} knows {foreign}"


@pytest.mark.parametrize(
    "source",
    [
        "from experiments.theorem.multi_step import arms",
        "from experiments.theorem import multi_step",
        "from experiments import theorem",
        "import experiments.theorem.multi_step as m",
        "from ..theorem import multi_step",
        "from .. import theorem",
        "import experiments\nexperiments.theorem.multi_step.arms(config)",
        "import experiments\nmodule = experiments.load('multi_step')",
        "import experiments\nSOURCES = ('multi_step',)\nexperiments.load(SOURCES[0])",
        "import importlib\nimportlib.import_module('experiments.theorem.multi_step')",
    ],
)
def test_another_room_is_seen_however_it_is_reached(source):
    assert reached(source, "experiments.mnist") == {"theorem"}


def test_no_circle_of_folders_in_llm(repository):
    """Folders and the files beside them can be read from the ground up."""
    known = {path.name.removesuffix(".py") for path in (repository / "llm").iterdir()}
    below = {name: set() for name in known}
    for path in (repository / "llm").rglob("*.py"):
        place = path.relative_to(repository)
        here = place.parts[1].removesuffix(".py")
        parts = (
            name.split(".") for name in mentioned(path.read_text(), ".".join(place.parts[:-1]))
        )
        below[here] |= {p[1] for p in parts if p[0] == "llm" and len(p) > 1} & known - {here}
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_what_only_looks_like_a_room_is_none():
    source = "from experiments.mnist.kit import flags\ntheorem = flags.theorem\nname = 'multi_step'"
    assert reached(source, "experiments.mnist") == {"mnist"}


def test_no_optional_package_is_needed_at_import(repository):
    """Accelerator images lack these; library code must import without them."""
    optional = {"pooch", "requests", "torch", "peft", "beartype", "sklearn", "tyro"}
    for folder in ("theory", "mnist_mlp", "llm", "benchmarks"):
        for path in (repository / folder).rglob("*.py"):
            if path.name.endswith("_torch.py"):  # the opponents themselves
                continue
            top = ast.parse(path.read_text()).body
            for node in top:
                if isinstance(node, ast.Import):
                    names = {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {(node.module or "").split(".")[0]}
                else:
                    continue
                assert not names & optional, f"{path} imports {names & optional}"
