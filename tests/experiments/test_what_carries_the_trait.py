"""Every number of the page is that of a checked-in table, and every figure is there."""

import re

import pytest

from experiments.lab import record, statistics
from experiments.mnist import mnist_aux_logits


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "what-carries-the-trait.md").read_text()


def test_numbers_of_the_first_section(page, repository):
    folder = repository / "experiments" / "results" / "mnist_aux_logits"
    table = record.read_table(folder)
    assert table["seed"].nunique() == 100
    section = page.split("## ")[1]
    shown = {
        c: statistics.shown(mnist_aux_logits.of_condition(table, c))
        for c in ("student_aux", "cross_aux", "reference", "teacher")
    }
    found = re.findall(r"\d\.\d{3} ± \d\.\d{3}", section)
    assert found == list(shown.values())


def test_figures_and_links_exist(page, repository):
    for target in re.findall(r"\]\((\.\./[^)]+)\)", page):
        assert (repository / "docs" / target).exists(), target
