"""Who may import whom: theory <- mnist_mlp <- experiments and theory <- llm <- experiments."""

import ast
import pathlib

import pytest

ALLOWED = {
    "theory": {"theory"},
    "mnist_mlp": {"mnist_mlp", "theory"},
    "llm": {"llm", "theory"},
    "experiments": {"experiments", "mnist_mlp", "llm", "theory"},
}
EVERYTHING = {*ALLOWED, "benchmarks", "tests"}


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
