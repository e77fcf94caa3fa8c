"""The mutants are wrong lines of today's files, and the table of them is about these lines."""

import ast
import tomllib

import pytest

from tests import mutants

TABLE = tomllib.loads((mutants.ROOT / "tests" / "mutants.toml").read_text())
PATHS = ["theory/matched.py", mutants.STATISTICS]


def test_the_same_seed_draws_the_same_mutants_from_every_file_and_of_every_kind():
    found = mutants.drawn(PATHS, seed=3, count=24)
    assert found == mutants.drawn(PATHS, seed=3, count=24) != mutants.drawn(PATHS, seed=4, count=24)
    assert [sum(m.path == path for m in found) for path in PATHS] == [12, 12]
    kinds = {"operator", "comparison", "constant", "sibling", "dropped", "alternative"}
    for path in PATHS:
        assert {m.kind for m in found if m.path == path} == kinds


def test_a_mutant_is_a_file_that_differs_in_what_it_computes():
    for mutant in mutants.drawn(["theory/asymptotics.py", *PATHS], seed=0, count=45):
        old, new = map(ast.parse, mutant.source())
        assert ast.dump(old) != ast.dump(new), str(mutant)
        assert ast.get_docstring(old) == ast.get_docstring(new)


@pytest.mark.parametrize("entry", TABLE["named"], ids=lambda entry: entry["what"])
def test_a_named_mutant_is_of_a_line_that_stands(entry):
    old, new = map(ast.parse, mutants.named(entry).source())
    assert ast.dump(old) != ast.dump(new)


@pytest.mark.parametrize("entry", TABLE.get("equivalent", []), ids=lambda entry: entry["old"])
def test_an_equivalent_mutant_is_one_that_can_be_drawn(entry):
    known = [mutant.lines() for mutant in mutants.mutants_of(entry["file"])]
    assert (entry["old"], entry["new"]) in known
    assert len(entry["reason"].split()) >= 3


def test_the_tests_of_a_module_begin_with_its_own():
    for path, first in [("theory/matched.py", "tests/theory/test_matched.py"),
                        (mutants.STATISTICS, "tests/experiments/test_statistics.py"),
                        ("theory/base.py", "tests/theory/test_base.py")]:  # fmt: skip
        assert mutants.tests_of(path)[0] == first
