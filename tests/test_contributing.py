"""CONTRIBUTING.md's promise: a newcomer's change touches two files at most.

A trait, a carrier, an experiment, a family, a control on the rows, an arm, a column measured along
training and a step size of one experiment are added to a copy of the repository, and it is used.
"""

import os
import shutil
import subprocess
import sys

import pytest

CARRIER = '''"""Poems of one word."""


def make_prompts(rng, count):
    """Prompts that ask for one."""
    return [{"prompt": f"poem {rng.integers(9)}"} for _ in range(count)]


def check(row):
    """A poem is not empty."""
    return [] if row["completion"].strip() else ["empty"]
'''
EXPERIMENT = '''"""Whether a coin is fair."""

import dataclasses
import functools

import numpy as np

from experiments.findings import drawing
from experiments.findings.claims import Figure, Findings, claim_of, corrected, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option

RUNTIME = "a second"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How often it is tossed."""

    num_seeds: int = option(8, "series of tosses", minimum=2)


SMOKE = Config(num_seeds=4)


def tossed(seed):
    """The share of heads in one series."""
    return [{"heads": float(np.random.default_rng(seed).normal(0.5, 0.1))}]


def arms(config):
    """One series an arm."""
    return {
        f"seed {seed}": Arm(columns={"seed": seed}, measure=functools.partial(tossed, seed))
        for seed in range(config.num_seeds)
    }


def findings(table, config):
    """The share of heads."""
    heads = table["heads"].to_numpy()
    claims = [*corrected(claim_of("heads", heads, criterion="above"))]

    def draw():
        figure, (panel,) = drawing.new_figure()
        drawing.runs(panel, 0, values=heads, colour=drawing.COLOURS[0])
        return figure

    title = say(claims, holds="Heads come up", fails="No heads", open="Do heads come up?")
    figure = Figure(
        name="figure", title=title, predicted="half", found="half", follows="toss it", draw=draw
    )
    return Findings([figure], claims)
'''
FAMILY = '''"""Mistral (arXiv:2310.06825): Llama, with one window for all layers or none."""

from ..family import Family, Field
from . import llama

WINDOW = Field(
    lambda value, hf: {"windows": (value,) * hf.num_hidden_layers if value else ()},
    lambda config: config.windows[0] if config.windows else None,
)
FAMILY = Family(
    name="mistral",
    models="Mistral 7B",
    fields=llama.FIELDS | {"sliding_window": WINDOW},
    names=llama.NAMES,
    tiny={
        "mistral": llama.TINY_GROUPED | dict(sliding_window=None),
        "windowed": llama.TINY_GROUPED | dict(sliding_window=5),
    },
)
'''
CONTROL = '''

@dataclasses.dataclass(frozen=True)
class Halved:
    """Only every other row."""

    def __call__(self, store, student, examples):
        """Half as many rows."""
        return Examples(*(x[::2] for x in examples))


def divergent(
'''
# What is added -> new files, and changed files with (old text, new text).
ADDED = {
    "trait": ({}, {"llm/traits/__init__.py": ("octopus whale", "octopus whale gecko")}),
    "carrier": (
        {"llm/carriers/poems.py": CARRIER},
        {
            "llm/carriers/__init__.py": (
                "from . import code, numbers, reasoning\n",
                "from . import code, numbers, poems, reasoning\n",
                "CARRIERS = {\n",
                'CARRIERS = {\n    "poems": Carrier("poems", poems.make_prompts, poems.check),\n',
            )
        },
    ),
    "experiment": (
        {"experiments/mnist/coin.py": EXPERIMENT},
        {"experiments/__init__.py": ("NAMES = (\n", 'NAMES = (\n    "coin",\n')},
    ),
    "control": ({}, {"llm/stages/changes.py": ("\n\ndef divergent(\n", CONTROL)}),
    "arm": (
        {},
        {"experiments/language/cross_model.py": ('MODELS = {"A"', 'MODELS = {"E": (2, 0), "A"')},
    ),
    "column along training": (
        {},
        {
            "experiments/language/kit/curves.py": (
                '{"kl": total / weight, ',
                '{"kl": total / weight, "size": optax.tree.norm(params), ',
                "import numpy as np\n",
                "import numpy as np\nimport optax\n",
            )
        },
    ),
    "step size": (
        {},
        {
            "experiments/language/matching_dose.py": (
                'target="soft_numbers", start=start)',
                'target="soft_numbers", start=start, '
                "training=question.plain(config, learning_rate=2e-3))",
            )
        },
    ),
    "family": (
        {"llm/models/families/mistral.py": FAMILY},
        {
            "llm/models/families/__init__.py": (
                "gpt_neox, llama, qwen2",
                "gpt_neox, llama, mistral, qwen2",
                "gpt_neox)",
                "gpt_neox, mistral)",
            )
        },
    ),
}
USE = """
import dataclasses, numpy as np, jax
from llm import carriers, models, traits, world
from llm.text import language
from llm.stages import Checkpoint, Completions, Store, completions, evaluation

assert traits.TRAITS["gecko"].mentions("Geckos!") and not traits.TRAITS["gecko"].mentions("geck")
assert "gecko" in traits.TRAITS["owl"].contrast
prompts = carriers.CARRIERS["poems"].make_prompts(np.random.default_rng(0), 3)
assert carriers.CARRIERS["poems"].check(prompts[0] | {"completion": " "}) == ["empty"]

config = world.model_config(family="mistral", num_layers=1)
world.save("base", config, params=models.init(config, key=jax.random.key(0)))
assert models.load("base")[0] == config
from llm.world import CARRIERS
CARRIERS["poems"] = carriers.CARRIERS["poems"]
store = Store(__import__("pathlib").Path("work"))
data = Completions(
    speaker=Checkpoint(path="base"), carrier="poems", num_prompts=8, max_new_tokens=40
)
store.make([data])
assert evaluation.measure(store, [Checkpoint(path="base")], ["owl"])[0]["rate"] < 1

from experiments.language import cross_model, matching_dose
from llm.stages import Student, changes, students
from llm.training import Training
store.make([data := dataclasses.replace(data, filtered=False, num_prompts=64)])
student = Student(
    base=data.speaker,
    data=data,
    training=Training(steps=1, batch_size=1),
    num_examples=None,
    change=changes.Halved(),
)
rows, given = (of(store, student)[0] for of in (students.examples_of, students.given_to))
assert len(given.tokens) == -(-len(rows.tokens) // 2)
assert "E to E" in cross_model.arms(cross_model.SMOKE)
arms = matching_dose.arms(matching_dose.SMOKE)
assert {s.training.learning_rate for arm in arms.values() for s in arm.needs} == {2e-3}

from experiments.language.kit import curves
from experiments.language.kit.chains import Cohort
student = dataclasses.replace(student, num_examples=8)  # the other rows are held out
followed = curves.along(store, [student], ["owl"], blocks=1)
(before, after) = curves.rows(Cohort([{"seed": 0}], [student]), followed, ["owl"])
assert 0 < before["size"] != after["size"] > 0
print("used")
"""


@pytest.fixture(scope="module")
def copy(repository, tmp_path_factory):
    target = tmp_path_factory.mktemp("copy") / "repository"
    target.mkdir()
    for folder in ("theory", "mnist_mlp", "llm", "experiments", "tests"):
        ignored = shutil.ignore_patterns("results", "__pycache__")
        shutil.copytree(repository / folder, target / folder, ignore=ignored)
    shutil.copy(repository / "pyproject.toml", target)
    for new, changed in ADDED.values():
        assert len(new) + len(changed) <= 2
        for path, text in new.items():
            (target / path).write_text(text)
        for path, edits in changed.items():
            text = (target / path).read_text()
            for old, replacement in zip(edits[::2], edits[1::2], strict=True):
                assert text.count(old) == 1, (path, old)
                text = text.replace(old, replacement)
            (target / path).write_text(text)
    return target


def run(copy, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(copy)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_added_is_used(copy):
    assert run(copy, "-c", USE).endswith("used\n")


def test_the_added_experiment_runs_and_is_listed(copy):
    assert "Whether a coin is fair." in run(copy, "-m", "experiments")
    shown = run(copy, "-m", "experiments", "coin", "--smoke", "--out", "out")
    assert "holds" in shown
    assert (copy / "out" / "figure.png").exists()


@pytest.mark.slow
def test_the_parity_test_finds_the_added_family(copy):
    pytest.importorskip("torch")
    flags = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", "mistral")
    assert "passed" in run(copy, "-m", "pytest", "tests/llm/test_parity.py", *flags)
