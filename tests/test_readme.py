"""Every number of the README's result tables is that of a checked-in CSV."""

import itertools
import json
import pathlib

import pytest

from experiments import (
    alignment_along_training,
    effects,
    mechanism,
    microworld,
    mnist_aux_logits,
    paper_on_a_laptop,
    record,
)

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
        assert statistics.shown(values) in line


def test_microworld_table(readme):
    folder = RESULTS / "microworld"
    assert record.read_meta(folder)["finished"]
    rows = record.read_rows(folder)
    for target in microworld.targets_of(rows):
        for start in microworld.STARTS:
            effect = effects.effects(rows, target=target, start=start)
            for trait in microworld.traits_of(rows):
                assert statistics.shown(effect[trait, trait], 2) in readme, (target, start, trait)


def test_commands_of_the_readme_exist(readme, repository):
    for line in readme.splitlines():
        words = line.split()
        if words[:2] == ["python", "-m"]:
            path = repository / pathlib.Path(*words[2].split("."))
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line


def test_paper_tables(readme):
    rows = record.read_rows(RESULTS / "paper_on_a_laptop")
    assert record.read_meta(RESULTS / "paper_on_a_laptop")["finished"]
    families = paper_on_a_laptop.families_of(rows)
    for carrier, family in itertools.product(paper_on_a_laptop.CARRIERS, families):
        cells = [
            statistics.shown(
                effects.diagonal(
                    effects.effects(rows, carrier=carrier, arm=target, start=start),
                    families[family],
                ),
                2,
            )
            for target in paper_on_a_laptop.IMITATED
            for start in ("same", "different")
        ]
        assert f"| {carrier} | {family} | {' | '.join(cells)} |" in readme
    cross = paper_on_a_laptop.cross_effects(rows)
    for student in paper_on_a_laptop.MODELS:
        cells = [statistics.shown(cross[student, t], 2) for t in paper_on_a_laptop.MODELS]
        assert f"| {student} | {' | '.join(cells)} |" in readme


def test_speed_tables(readme, repository):
    results = repository / "benchmarks" / "results"
    mnist = json.loads((results / "2026-11-20-mnist.json").read_text())["sides"]
    for side in mnist.values():
        assert f"| {side['wall']:.1f} |" in readme
    for row in json.loads((results / "llm-2026-11-20-cpu.json").read_text())["rows"][:-1]:
        cells = (row["ours_tokens_per_s"], row["theirs_tokens_per_s"])
        assert f"| {cells[0]:,.0f} | {cells[1]:,.0f} | {row['ratio']:.2f} |" in readme, row


def test_mechanism_numbers(readme):
    rows = record.read_rows(RESULTS / "mechanism")
    values = mechanism.arm_effects(rows)
    for arm in ("sampled", "soft_numbers", "soft", "greedy", "shared embeddings, soft_numbers",
                "shared body, soft_numbers", "behaviour matched, soft_numbers", "64 rows",
                "256 rows", "1024 rows", "25% clean", "divergent masked",
                "as many random masked", "sgd 0.02"):  # fmt: skip
        assert statistics.shown(values[arm], 2) in readme.replace("\n", " "), arm


def test_alignment_numbers(readme):
    rows = record.read_rows(RESULTS / "alignment_along_training")
    for arm in ("student", "projected both ways", "both ways, shuffled"):
        final = alignment_along_training.over_seeds(rows, arm, "accuracy")[:, -1]
        assert statistics.shown(final) in readme
    for arm in ("student", "other start"):
        assert statistics.shown(alignment_along_training.mean_cosine(rows, arm), 4) in readme
