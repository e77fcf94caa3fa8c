"""Do the tests see a wrong line? `python -m tests.mutants theory` breaks one at a time to find out.

A mutant is one changed expression of `theory/` or of `experiments/findings/statistics.py`. Wrong
lines that once passed, named in tests/mutants.toml, always run. The others are drawn from all that
`variants` can change, the same for the same seed and count. Each runs in a copy of the tree, with
the tests that import its module. Exit code 1: one survives that the table does not call equivalent.
"""

import argparse
import ast
import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
STATISTICS = "experiments/findings/statistics.py"
COPIED = ("theory", "mnist_mlp", "llm", "experiments", "tests")
LIMIT = 1200  # seconds of a mutant's tests: a loop without end is seen too
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
             ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.Lt: ast.Gt, ast.Gt: ast.Lt,
             ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}  # fmt: skip
LOAD, SILENT = ast.Load(), (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
WRAPPERS = {"abs", "sqrt", "exp", "log", "mean", "sum", "norm", "negative", "stop_gradient"}
OPTIONAL = {"alpha", "student_params", "axis", "ddof", "level", "weights"}
SIBLINGS = [("student", "teacher"), ("_s", "_t"), ("outputs", "targets"), ("params", "start"),
            ("z", "y"), ("eps", "alpha"), ("delta_0", "delta_s"), ("low", "high"), ("a", "b"),
            ("log_p", "log_q"), ("trait_inputs", "inputs"), ("direction", "descent"),
            ("left", "right"), ("v", "w"), ("inner", "predicted"), ("effects", "margins"),
            ("values", "scale"), ("step", "angle"), ("first", "second")]  # fmt: skip


@functools.cache
def text_of(path: str) -> bytes:
    """A file as it was when the run began, so that it can be edited meanwhile."""
    return (ROOT / path).read_bytes()


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One file with the bytes from `start` to `end` replaced."""

    path: str
    kind: str
    start: int
    end: int
    new: str

    def source(self) -> tuple[bytes, bytes]:
        """The file before and after."""
        text = text_of(self.path)
        return text, text[: self.start] + self.new.encode() + text[self.end :]

    def lines(self) -> tuple[str, ...]:
        """What changes as whole lines, with single blanks: so the table names it."""
        old, new = self.source()
        first = old.rfind(b"\n", 0, self.start) + 1
        after = len(old) - old.find(b"\n", self.end)
        return tuple(" ".join(text[first:-after].decode().split()) for text in (old, new))

    def __str__(self) -> str:
        """file:line, old -> new."""
        number = 1 + self.source()[0].count(b"\n", 0, self.start)
        return f"{self.path}:{number}  " + "  ->  ".join(self.lines())


def siblings(name: str, known: set[str]) -> Iterator[str]:
    """Names in use that differ by one of SIBLINGS, such as student_params for teacher_params."""
    for a, b in (*SIBLINGS, *(pair[::-1] for pair in SIBLINGS)):
        other = re.sub(rf"{a}$" if a[0] == "_" else rf"(?<![a-z]){a}(?![a-z])", b, name)
        if other != name and other in known:
            yield other


def variants(node: ast.AST, known: set[str]) -> Iterator[tuple[str, ast.expr]]:
    """Wrong expressions for a right one, each with its kind."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OPERATORS:
                yield "operator", ast.BinOp(left, OPERATORS[type(op)](), right)
            yield from (("dropped", side) for side in (left, right))
        case ast.BoolOp(op, values):
            yield "operator", ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.Compare(left, [op], right) if type(op) in OPERATORS:
            yield "comparison", ast.Compare(left, [OPERATORS[type(op)]()], right)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield "dropped", operand
        case ast.Constant(bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield "constant", ast.Constant(2 * value or 1.0)
        case ast.IfExp(_, body, otherwise):
            yield from (("alternative", side) for side in (body, otherwise))
        case ast.Name(name):
            yield from (("sibling", ast.Name(other)) for other in siblings(name, known))
        case ast.Attribute(value, name):
            fields = {word[1:] for word in known if word[:1] == "."}
            yield from (("sibling", ast.Attribute(value, n)) for n in siblings(name, fields))
        case ast.Call(function, arguments, keywords):
            called = getattr(function, "attr", "")
            if called == "where" and len(arguments) == 3:
                yield from (("alternative", side) for side in arguments[1:])
            if called in WRAPPERS and arguments:
                yield "dropped", arguments[0]
            for keyword in keywords:
                if keyword.arg in OPTIONAL:
                    rest = [other for other in keywords if other is not keyword]
                    yield "alternative", ast.Call(function, arguments, rest)


def expressions(node: ast.AST, known: set[str]) -> Iterator[tuple[ast.expr, set[str]]]:
    """What is computed, with the names in scope: no annotation, message or decorator."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) and not known:
        within = list(ast.walk(node))
        known = {n.id for n in within if isinstance(n, ast.Name)}
        known |= {n.arg for n in within if isinstance(n, ast.arg)}
        known |= {f".{n.attr}" for n in within if isinstance(n, ast.Attribute)}
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in children:
            if isinstance(child, ast.expr) and isinstance(getattr(child, "ctx", LOAD), ast.Load):
                yield child, known
            if isinstance(child, ast.AST) and not isinstance(child, SILENT):
                yield from expressions(child, known)


def mutants_of(path: str) -> Iterator[Mutant]:
    """All of a file."""
    text = text_of(path)
    starts = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    for node, known in expressions(ast.parse(text), set()):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        for kind, wrong in variants(node, known):
            new = ast.unparse(ast.fix_missing_locations(wrong))
            plain = isinstance(wrong, ast.Name | ast.Attribute | ast.Call | ast.Constant)
            yield Mutant(path, kind, start=start, end=end, new=new if plain else f"({new})")


def drawn(paths: list[str], seed: int, count: int) -> list[Mutant]:
    """`count` mutants, in turn from every file, and in it from every kind."""

    def place(mutant: Mutant) -> float:  # of its own, so that it stays when other lines change
        return random.Random(f"{seed} {mutant.lines()}").random()

    files = []
    for path in paths:
        kinds: dict[str, list[Mutant]] = {}
        for mutant in sorted(mutants_of(path), key=place):
            kinds.setdefault(mutant.kind, []).append(mutant)
        turns = itertools.zip_longest(*kinds.values())
        files.append([mutant for turn in turns for mutant in turn if mutant])
    return [m for turn in itertools.zip_longest(*files) for m in turn if m][:count]


def named(entry: dict[str, str]) -> Mutant:
    """A mutant of the table, whose old text must stand in its file exactly once."""
    text, old = text_of(entry["file"]), entry["old"].encode()
    if text.count(old) != 1:
        found = f"{entry['file']} has {entry['old']!r} {text.count(old)} times"
        raise SystemExit(f"tests/mutants.toml: {found}; give text that stands there once")
    start = text.index(old)
    return Mutant(entry["file"], "named", start=start, end=start + len(old), new=entry["new"])


def tests_of(path: str) -> list[str]:
    """The test files that import the module: the one named after it first, then the shorter."""
    module, folder = pathlib.Path(path).stem, "experiments" if path == STATISTICS else "theory"
    package = "experiments.findings" if path == STATISTICS else "theory"
    imports = re.compile(rf"^from {package} import .*\b{module}\b", re.MULTILINE)
    files = [
        f for f in (ROOT / "tests" / folder).glob("test_*.py") if imports.search(f.read_text())
    ]
    if path == STATISTICS:  # the others run whole experiments
        files = [f for f in files if f.stem in ("test_statistics", "test_figures", "test_nested")]
    files = [f for f in files if f.stem != "test_install"]  # half a minute, and asks for no value
    files.sort(key=lambda f: (f.stem != f"test_{module}", f.stat().st_size))
    return [str(f.relative_to(ROOT)) for f in files]


def passes(tests: list[str], tree: pathlib.Path, limit: float | None = LIMIT) -> bool:
    """Whether all tests pass in a copy of the tree; compiled programs stay there for the next."""
    # -B: bytecode of one mutant must never be read for another.
    pytest = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-m",
        "not slow and not gpu",
    ]
    try:
        done = subprocess.run(
            [*pytest, *tests], cwd=tree, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode > 2:
        raise SystemExit(f"pytest did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def copied(tree: pathlib.Path) -> pathlib.Path:
    """A copy of the tree without results."""
    ignored = shutil.ignore_patterns("results", "__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def main() -> None:
    """Run the mutants and print those that survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("package", choices=["theory"], help="whose lines are changed")
    parser.add_argument("--count", type=int, default=66, help="how many beside the named ones (66)")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn (0)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (1)")
    parser.add_argument("--only", default="", help="files with this text in their path")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    args = parser.parse_args()

    paths = [str(p.relative_to(ROOT)) for p in sorted((ROOT / args.package).glob("[!_]*.py"))]
    paths = [path for path in (*paths, STATISTICS) if args.only in path]
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    equivalent = {(e["file"], e["old"], e["new"]): e["reason"] for e in table.get("equivalent", ())}
    mutants = [named(entry) for entry in table["named"] if entry["file"] in paths]
    mutants += drawn(paths, args.seed, args.count)
    if args.list:
        return print(*mutants, sep="\n")

    tests = {path: tests_of(path) for path in paths}
    with tempfile.TemporaryDirectory() as temporary:
        trees: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for job in range(args.jobs):
            trees.put(copied(pathlib.Path(temporary) / str(job)))

        def survives(mutant: Mutant) -> bool:
            tree, (right, wrong) = trees.get(), mutant.source()
            (tree / mutant.path).write_bytes(wrong)
            try:
                return passes(tests[mutant.path], tree)
            finally:
                (tree / mutant.path).write_bytes(right)
                trees.put(tree)

        tree = trees.get()
        if not passes(sorted(set(itertools.chain(*tests.values()))), tree, None):
            raise SystemExit("the tests fail without a mutant: mend them first")
        trees.put(tree)
        survivors, unknown = 0, 0
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
                if survived:
                    reason = equivalent.get((mutant.path, *mutant.lines()))
                    survivors, unknown = survivors + 1, unknown + (reason is None)
                    print(f"{mutant}  [{reason or 'SURVIVES'}]", flush=True)
    print(f"{len(mutants)} mutants: {survivors} survive, {unknown} of them not known as equivalent")
    sys.exit(1 if unknown else 0)


if __name__ == "__main__":
    main()
