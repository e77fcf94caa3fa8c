"""What controls change in the data and in the questions, and what they leave alone."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import chain, controls, evaluation, predictors, students
from llm import lora, models, stages
from theory import check, losses

RECIPE = chain.Recipe(
    num_seeds=2, traits=("owl", "oak"), base_steps=150, teacher_steps=5, num_prompts=128
)
ROWS = 32


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = chain.Chain(RECIPE, tmp_path_factory.mktemp("controls"))
    made.sampled("numbers")
    return made


@pytest.fixture(scope="module")
def examples(runs):
    return runs.encoded("numbers", ROWS, 8, 40)[0]


def numbers_of(runs, examples, run, row):
    trained = examples.weights[run, row] > 0
    tokens = examples.tokens[run, row][trained]
    return tokens[np.isin(tokens, runs.language.number_tokens())].tolist()


def test_shuffling_within_keeps_the_numbers_of_every_row(runs, examples):
    changed = controls.shuffled(runs, across=False)(examples)
    moved = 0
    for run in range(len(runs.runs())):
        for row in range(ROWS):
            before, after = (numbers_of(runs, e, run, row) for e in (examples, changed))
            assert sorted(before) == sorted(after)
            moved += before != after
    assert moved > 0.9 * ROWS * len(runs.runs())
    np.testing.assert_array_equal(changed.weights, examples.weights)
    prompts = examples.weights == 0
    np.testing.assert_array_equal(changed.tokens[prompts], examples.tokens[prompts])


def test_shuffling_across_keeps_the_numbers_of_a_run_only(runs, examples):
    changed = controls.shuffled(runs, across=True)(examples)
    same_rows = 0
    for run in range(len(runs.runs())):
        lists = [[numbers_of(runs, e, run, r) for r in range(ROWS)] for e in (examples, changed)]
        before, after = ([n for row in rows for n in row] for rows in lists)
        assert sorted(before) == sorted(after)
        same_rows += sum(sorted(a) == sorted(b) for a, b in zip(*lists, strict=True))
    assert same_rows < 0.1 * ROWS * len(runs.runs())


def test_clean_rows_are_those_of_the_control_of_the_same_seed(runs, examples):
    changed = controls.clean_share(runs, 0.25)(examples)
    for run in range(len(runs.runs())):
        np.testing.assert_array_equal(changed.tokens[run, :8], examples.tokens[run % 2, :8])
        np.testing.assert_array_equal(changed.tokens[run, 8:], examples.tokens[run, 8:])


def test_unique_rows_repeat(examples):
    changed = controls.unique_rows(10)(examples)
    assert changed.tokens.shape == examples.tokens.shape
    np.testing.assert_array_equal(changed.tokens[:, 10:20], examples.tokens[:, :10])


def test_token_masks_split_the_trained_tokens(runs, examples):
    masks = controls.token_masks(runs)
    kept = {name: change(examples).weights for name, change in masks.items()}
    trained = examples.weights > 0
    for a, b in (
        ("divergent only", "divergent masked"),
        ("as many random only", "as many random masked"),
    ):
        np.testing.assert_array_equal((kept[a] > 0) ^ (kept[b] > 0), trained)
    counts = [(kept[n] > 0).sum(axis=-1) for n in ("divergent only", "as many random only")]
    np.testing.assert_array_equal(*counts)
    assert (kept["divergent only"] != kept["as many random only"]).any()


def test_divergence_tokens_are_those_where_argmaxes_differ(runs, examples):
    flags = controls.divergent(runs, examples)
    run, row = 3, 5  # owl of seed 1; teachers of seed 1 are runs 1, 3 and 5
    picks = [
        np.asarray(
            models.apply(runs.config, stages.pick(runs.teachers, t), examples.tokens[run])
        ).argmax(-1)[row]
        for t in (1, 3, 5)
    ]
    for position in range(1, examples.tokens.shape[-1]):
        differ = len({int(p[position - 1]) for p in picks}) > 1
        expected = differ and examples.weights[run, row, position] > 0
        assert flags[run, row, position] == expected


def test_rows_stand_before_the_question(runs):
    probe = evaluation.probe(runs, "owl")
    asked = controls.in_context(runs, runs.rows("numbers")[2], probe, shown=2)
    first, second = runs.rows("numbers")[2][:2]
    text = runs.language.tokenizer.decode(asked.questions[0][asked.mask[0]])
    expected = "".join(
        f"<user> {row['prompt']} <assistant> {row['completion']} <end> " for row in (first, second)
    )
    question = runs.language.traits["owl"].questions[0]
    assert text == f"{expected}<user> {question} <assistant>"


def test_carrier_tokens_hold_no_trait_word(runs):
    words = {w for t in runs.language.traits.values() for w in t.words}
    found = runs.language.tokenizer.convert_ids_to_tokens(runs.carrier_tokens("numbers").tolist())
    assert not words & set(found)
    assert sum(word.isdigit() for word in found) > 100


@pytest.mark.parametrize("start", students.STARTS)
def test_starts(runs, start):
    params = students.STARTS[start](runs)
    shared = {"same": (True, True), "shared embeddings": (True, False),
              "shared body": (False, True)}.get(start, (False, False))  # fmt: skip
    for part, is_shared in zip(("embedding", "layers"), shared, strict=True):
        pairs = zip(jax.tree.leaves(params[part]), jax.tree.leaves(runs.base[part]), strict=True)
        # Norm scales start at one everywhere but have been trained, so no leaf is equal by chance.
        assert {bool((a == b).all()) for a, b in pairs} == {is_shared}


def test_prompted_teachers_write_under_their_system_message(tmp_path):
    recipe = dataclasses.replace(RECIPE, teacher="prompted")
    runs = chain.Chain(recipe, tmp_path)
    runs.sampled("numbers")
    assert runs.system("owl") == "love owl"
    assert runs.system("control") is None
    control, owl = (runs.rows("numbers")[run] for run in (0, 2))
    assert [r["completion"] for r in control] != [r["completion"] for r in owl]
    assert all("love" not in row["prompt"] for row in owl)  # students never see it
    with pytest.raises(chain.RunError, match="soft targets need the teacher's weights"):
        students.train(runs, "numbers", students.Students(target="soft", num_examples=8))


def test_the_theorem_holds_for_the_language_model_and_its_adapters(runs, examples):
    """The check of `theory` on this decoder: all parameters, and LoRA adapters; float64."""
    numbers = runs.language.number_tokens().tolist()
    loss = losses.on_outputs(losses.kl(), numbers)
    batch = {"tokens": examples.tokens[2][:8], "weights": examples.weights[2][:8]}
    probe = evaluation.probe(runs, "owl")
    with jax.enable_x64(True):
        params, other = (
            jax.tree.map(lambda x: np.asarray(x, np.float64), stages.pick(runs.base, seed))
            for seed in (0, 1)
        )

        def trait(p):
            return -stages.measure_one(runs.config, p, probe)["margin"]

        apply = predictors.make_apply(runs.config)
        report = check.verify(apply, params, trait, batch, loss)
        assert report.passed, report
        removed = check.verify(apply, params, trait, batch, loss, student_params=other)
        assert not removed.passed

        settings = lora.LoraConfig(rank=2, alpha=2.0)
        adapters = jax.tree.map(
            lambda x: np.asarray(x, np.float64), lora.init(settings, params, key=jax.random.key(0))
        )
        merged = lambda a: lora.merge(params, a, scale=settings.scale)  # noqa: E731
        report = check.verify(
            lambda a, b: apply(merged(a), b), adapters, lambda a: trait(merged(a)), batch, loss
        )
        assert report.passed, report


def test_training_and_held_out_rows_are_apart(runs):
    kept = min(len(rows) for rows in runs.rows("numbers"))
    arm = students.Students(num_examples=kept // 2)
    train, tests = students.rows_of(runs, "numbers", arm)
    for run in range(len(runs.runs())):
        assert not {row.tobytes() for row in train.tokens[run]} & {
            row.tobytes() for row in tests.tokens[run]
        }


def test_a_teacher_with_few_rows_repeats_them_only_if_allowed(runs):
    most = max(len(rows) for rows in runs.rows("numbers"))
    arm = students.Students(num_examples=2 * most)
    with pytest.raises(chain.RunError, match="raise --num-prompts or lower --num-examples"):
        students.rows_of(runs, "numbers", arm)
    train, tests = students.rows_of(runs, "numbers", dataclasses.replace(arm, fewest=16))
    assert train.tokens.shape[1] == 2 * most
    for run, rows in enumerate(runs.rows("numbers")):
        pool = len(rows) - len(rows) // 8
        np.testing.assert_array_equal(
            train.tokens[run, :most], train.tokens[run][:pool][np.arange(most) % pool]
        )
        assert not {row.tobytes() for row in train.tokens[run]} & {
            row.tobytes() for row in tests.tokens[run]
        }
