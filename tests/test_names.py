"""Arguments have names where they are many: a wrong place is an error, not a wrong number."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRODUCT = ("theory", "mnist_mlp", "llm", "experiments", "benchmarks")
FILES = [path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))]
MANY = 4  # parameters or fields; beyond it
SUBJECTS = 2  # so many may go without a name: what a function is about
# `theory.stream` calls these with the arrays in their places, whatever the function is.
BY_PLACE = ("batch_", "_batch_")
RECIPES = ("Recipe", "Model", "Asked")


def parameters(node, method):
    """Positional and keyword-only parameters of a function, without self or cls."""
    static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
    places = [*node.args.posonlyargs, *node.args.args][method and not static :]
    return places, node.args.kwonlyargs


def positional_functions(tree):
    """Functions of a module or class of many parameters that can be given without their names."""
    owners = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith(BY_PLACE):
                places, named = parameters(node, isinstance(owner, ast.ClassDef))
                if len(places) + len(named) > MANY and len(places) > SUBJECTS:
                    yield f"{node.name}, line {node.lineno}"


def positional_dataclasses(tree):
    """Dataclasses of many fields, and all recipes, that can be built without names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            made = [ast.unparse(d) for d in node.decorator_list if "dataclass" in ast.unparse(d)]
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            many = len(fields) > MANY or any(ast.unparse(base) in RECIPES for base in node.bases)
            if made and many and "kw_only=True" not in made[0]:
                yield f"{node.name}, line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_recipes_take_many_arguments_by_name(path):
    tree = ast.parse(path.read_text())
    assert not [*positional_functions(tree), *positional_dataclasses(tree)]


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b, c, d, e): ...",
        "class A:\n    def f(self, a, b, c, *, d, e): ...",
        "@dataclass(frozen=True)\nclass A(Model):\n    base: int",
        "@dataclass\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int\n    e: int",
    ],
)
def test_the_test_sees_places(source):
    tree = ast.parse(source)
    assert [*positional_functions(tree), *positional_dataclasses(tree)]


def test_few_functions_are_longer_than_a_screen():
    """Sixty lines and more: five at most, each a table of flags or one program."""
    long = [
        f"{path.relative_to(ROOT)}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 >= 60
    ]
    assert len(long) <= 5, long
