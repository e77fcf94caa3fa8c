"""Every number of the README's result tables is that of a checked-in CSV."""

import pathlib

import pytest

from experiments import effects, figures, microworld, mnist_aux_logits, record

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "results"


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text()


def test_mnist_table(readme):
    folder = RESULTS / "mnist_aux_logits"
    config = record.read_meta(folder)["config"]
    assert config["num_seeds"] == 100
    assert record.read_meta(folder)["finished"]
    for condition, values in mnist_aux_logits.by_condition(record.read_rows(folder)).items():
        assert len(values) == 100
        assert f"| `{condition}` |" in readme
        line = next(s for s in readme.splitlines() if s.startswith(f"| `{condition}` |"))
        assert figures.shown(values) in line


def test_microworld_table(readme):
    folder = RESULTS / "microworld"
    assert record.read_meta(folder)["finished"]
    rows = record.read_rows(folder)
    for target in microworld.targets_of(rows):
        for start in microworld.STARTS:
            effect = effects.effects(rows, target=target, start=start)
            for trait in microworld.traits_of(rows):
                assert figures.shown(effect[trait, trait], 2) in readme, (target, start, trait)


def test_commands_of_the_readme_exist(readme, repository):
    for line in readme.splitlines():
        words = line.split()
        if words[:2] == ["python", "-m"]:
            path = repository / pathlib.Path(*words[2].split("."))
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line
