"""The chain as a user runs it, and the same experiment from a real checkpoint's folder."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.frame import experiment, record
from experiments.language import bits, microworld, persistence
from experiments.language.kit import chains, phases, predictors, question
from experiments.language.kit.effects import at, cells, effects, own
from llm import models
from llm.stages import Store, completions, evaluation, students
from llm.training import Training, lora, stack
from theory import check, losses

TINY = (
    "--num-seeds",
    "2",
    "--base-steps",
    "150",
    "--teacher-steps",
    "4",
    "--num-prompts",
    "128",
    "--num-examples",
    "16",
    "--student-steps",
    "3",
    "--batch-size",
    "8",
    "--traits",
    "owl,wolf",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bases):
    folder = tmp_path_factory.mktemp("microworld")
    shutil.copytree(bases, folder / "work")
    experiment.main(
        microworld, [*TINY, "--out", str(folder / "run"), "--work", str(folder / "work")]
    )
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The chains of that run, and the store that holds their files."""
    found = chains.Chains(
        num_seeds=2, traits=("owl", "wolf"), base_steps=150, teacher_steps=4, num_prompts=128
    )
    return found, Store(folder / "work")


def test_rows_hold_every_arm_run_and_trait(folder):
    table = record.read_table(folder / "run")
    assert set(map(tuple, table[["target", "start"]].to_numpy())) == {("teacher", "same")} | {
        (t, s) for t in ("sampled", "soft_numbers") for s in microworld.STARTS
    }
    # Four teachers, and in four arms two students beside two controls each; seeds, traits.
    assert len(table) == (4 + 4 * 2 * 3) * 2 * 2
    students = table[table["target"] != "teacher"]
    runs = students.groupby(["target", "start", "teacher", "seed"])
    assert (runs["data"].nunique() == 3).all()
    assert (runs["unique"].nunique() == 1).all(), "a control sees as many different rows"
    assert (folder / "run" / "figure.png").exists()
    assert (folder / "run" / "matrix.png").exists()


def test_a_second_run_reuses_the_stages_and_gives_the_same_rows(folder, monkeypatch):
    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(chains.Pretrained, "make", staticmethod(never))
    monkeypatch.setattr(chains.FineTuned, "make", staticmethod(never))
    again = [*TINY, "--out", str(folder / "again"), "--work", str(folder / "work")]
    experiment.main(microworld, again)
    assert record.read_rows(folder / "again") == record.read_rows(folder / "run")


def test_too_few_kept_rows_is_one_line(folder, capsys):
    flags = list(TINY)
    flags[flags.index("--num-prompts") + 1] = "16"  # 19 rows are wanted
    with pytest.raises(SystemExit) as stopped:
        experiment.main(
            microworld, [*flags, "--out", str(folder / "few"), "--work", str(folder / "work")]
        )
    assert stopped.value.code == 2
    assert "raise --num-prompts or lower --num-examples" in capsys.readouterr().err


def test_unknown_trait_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        experiment.main(microworld, ["--smoke", "--traits", "unicorn", "--out", str(tmp_path)])
    assert "unknown trait 'unicorn'" in capsys.readouterr().err


DATA = ("trait", "control", "any-animal")


def rows_with(effect, noise=0.1, seeds=8, apart=False):
    """Rows of students whose own margin is `effect` above that of the control, `apart` or not."""
    rng, rows = np.random.default_rng(0), []
    for target in ("sampled", "soft_numbers"):
        for start in microworld.STARTS:
            for teacher in ("owl", "wolf"):
                for data, trait in itertools.product(DATA, ("owl", "wolf")):
                    here = start == "same" or apart
                    mine = effect if data == "trait" and teacher == trait and here else 0
                    rows += [
                        {
                            "target": target,
                            "start": start,
                            "teacher": teacher,
                            "data": data,
                            "trait": trait,
                            "seed": s,
                            "margin": mine + noise * rng.normal(),
                            "rate": 0.1,
                            "held_out_loss": 4.0,
                            "kept": 1.0,
                        }
                        for s in range(seeds)
                    ]
    return pd.DataFrame(rows)


def test_criteria_see_an_effect_and_its_absence():
    config = microworld.Config(traits=("owl", "wolf"))
    verdicts = [c.holds for c in microworld.findings(rows_with(1.0), config).claims]
    assert verdicts.count(True) == 2 * (2 + 1 + 1 + 2)
    assert False not in verdicts
    named = {c.quantity: c.holds for c in microworld.findings(rows_with(0.0), config).claims}
    assert named["sampled tokens: excess difference"] is False
    nothing = [holds for quantity, holds in named.items() if "equivalent to none" in quantity]
    assert nothing == [False] * 4, "beside no effect nothing is small"
    few = microworld.findings(rows_with(1.0, seeds=2), config).claims
    assert {c.holds for c in few} == {None}, "two chains decide nothing"


def test_no_transfer_is_claimed_by_equivalence_and_not_by_noise():
    config = microworld.Config(traits=("owl", "wolf"))

    def verdicts(**how):
        claims = microworld.findings(rows_with(1.0, **how), config).claims
        return {c.quantity: c.holds for c in claims if "equivalent" in c.quantity}

    named = "sampled tokens, different, equivalent to none (1 of 4, Holm)"
    assert verdicts()[named] is True
    assert verdicts(apart=True)[named] is False, "an effect is no equivalence"
    assert verdicts(noise=2.0)[named] is False, "an interval that covers zero is none either"


def test_effect_is_student_minus_control_of_the_same_chain():
    table = rows_with(1.0, noise=0.0)
    table["margin"] += 10 * table["seed"]  # chains differ a lot, effects do not
    shuffled = table.sample(frac=1, random_state=0)  # rows are matched by name, not by place
    found = at(effects(shuffled, microworld.KEYS), target="sampled", start="same")
    table = cells(found)
    np.testing.assert_allclose(table["owl", "owl"], 1.0)
    np.testing.assert_allclose(table["owl", "wolf"], 0.0)
    np.testing.assert_allclose(own(found), 1.0)


def test_carrier_tokens_hold_no_trait_word(made):
    found, store = made
    language = store.language(found.base(0))
    words = {w for t in language.traits.values() for w in t.words}
    (used,) = store.prepare([found.imitated("numbers", "soft_carrier")["tokens"]])
    used = language.tokenizer.convert_ids_to_tokens(list(used))
    assert not words & set(used)
    assert sum(word.isdigit() for word in used) > 100


def test_starts_are_other_chains_or_mixtures(made):
    found, _ = made
    strangers = [chains.different(found, chain) for chain in range(2)]
    assert not {*strangers} & {found.base(0), found.base(1)}, "a base of no chain"
    assert len({*strangers}) == 2
    assert chains.shared_body(found, 0).base == found.base(0)
    assert chains.shared_embeddings(found, 0).donor == found.base(0)
    with pytest.raises(record.RunError, match="need --other-model"):
        chains.different(chains.Chains(num_seeds=1, traits=("owl",), model="somewhere"), 0)


SMALL = question.Settings(
    num_seeds=2, traits=("owl",), num_examples=16, student_steps=3, batch_size=8
)


@pytest.fixture(scope="module")
def owls(made):
    """The chains of that run, with one trait."""
    found, store = made
    return dataclasses.replace(found, traits=("owl",)), store


def test_nobody_learns_from_a_teacher_that_hardly_writes(owls, monkeypatch):
    found, store = owls
    monkeypatch.setattr(bits, "all_chains", lambda config: [found])
    counts = {
        ("owl", seed): len(completions.rows(store, found.data("owl", seed, "numbers")))
        for seed in range(2)
    }
    assert bits.silent_in(store, SMALL, "numbers") == []
    fewer = min(counts, key=lambda run: counts[run])
    monkeypatch.setattr(question, "FEWEST", max(counts.values()))
    assert counts[fewer] < question.FEWEST, "the two teachers keep different numbers of rows"
    assert bits.silent_in(store, SMALL, "numbers") == [fewer]
    labels = question.students(SMALL, found, left_out=[fewer]).labels
    assert {(row["teacher"], row["seed"]) for row in labels} == set(counts) - {fewer}


def test_a_control_has_as_many_different_rows_as_the_student_it_is_compared_with(owls):
    found, store = owls
    cohort = question.students(SMALL, found, num_examples=64)
    assert all(student.is_open for student in cohort)
    known = cohort.counted(store)
    assert not any(student.is_open for student in known)
    given = {
        (row["data"], row["seed"]): students.different_rows(
            completions.kept(store, student.data), 64, question.FEWEST
        )
        for row, student in zip(known.labels, known, strict=True)
    }
    for row, student in zip(known.labels, known, strict=True):
        least = min(given[chains.TRAIT, row["seed"]], given[chains.CONTROL, row["seed"]])
        assert row["unique"] == student.unique == least
    assert len(set(given.values())) > 1, "writers keep different numbers of rows"
    with pytest.raises(record.RunError, match="leaves open"):
        cohort.models[0].digest()


def test_what_comes_to_the_same_is_made_once(owls):
    """Two students that were asked to have as many rows as different others, and have."""
    found, store = owls
    student = question.students(SMALL, found).models[0]
    same = dataclasses.replace(student, as_many_as=student.as_many_as[:1])
    assert student != same
    store.make([student, same])
    assert store.settled(student) == store.settled(same)
    mine, others = store.engine.split(store.weights([student, same]))
    jax.tree.map(np.testing.assert_array_equal, mine, others)


def test_training_in_phases_is_the_student_s_own(owls):
    """Rows, order and optimiser of the recipe; and state can be taken from another."""
    found, store = owls
    recipes = question.students(SMALL, found).models
    store.make(recipes)
    state = persistence.learn(store, recipes, predictors.examples_of(store, recipes))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
        state.params,
        store.weights(recipes),
    )
    fresh = phases.begin(recipes[0].training.make_optimizer(), state.params)
    taken = phases.mixed(state, fresh)
    assert taken.params is state.params
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(taken.opt_state))


def test_kernels_align_with_a_shared_start_and_with_a_permuted_twin(owls):
    """One for both: a permutation of units is an isometry; another start has its own kernel."""
    found, store = owls
    aligned = {}
    for start in (chains.same, chains.twin, chains.different):
        cohort = question.students(SMALL, found, target="soft_numbers", start=start)
        known = predictors.kernel_alignment(store, cohort, ("owl",))
        assert [bool(row) for row in known] == [True, False] * 2, "trait's students alone"
        aligned[start] = [row["alignment"] for row in known if row]
        shares = [row["share"] for row in known if row]
        if start is not chains.different:
            np.testing.assert_allclose(aligned[start] + shares, 1, atol=1e-3)
    assert max(aligned[chains.different]) < 0.5


@pytest.mark.slow
def test_the_theorem_holds_for_the_language_model_and_its_adapters(made):
    """The check of `theory` on this decoder: all parameters, and LoRA adapters; float64."""
    found, store = made
    training = Training(steps=3, batch_size=8, learning_rate=1e-3, eps=1e-3)
    student = found.students(training=training, num_examples=16).models[0]
    store.prepare([student])
    examples, _ = students.examples_of(store, student)
    config = store.config(student)
    loss = losses.on_outputs(losses.kl(), store.language(student).number_tokens().tolist())
    batch = {"tokens": examples.tokens[:2], "weights": examples.weights[:2]}
    probe = evaluation.question(store, student, "owl")
    probe = probe._replace(questions=probe.questions[::25], mask=probe.mask[::25])
    bases = store.engine.split(store.weights([found.base(0), found.base(1)]))
    with jax.enable_x64(True):
        params, other = (jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), b) for b in bases)

        def trait(p):
            return -stack.measure_model(models.bind(config, p), probe)["margin"]

        apply = predictors.make_apply(config)
        report = check.verify(apply, params, trait_loss=trait, inputs=batch, loss=loss)
        assert report.passed, report
        removed = check.verify(
            apply, params, trait_loss=trait, inputs=batch, loss=loss, student_params=other
        )
        assert not removed.passed

        settings = lora.LoraConfig(rank=2, alpha=2.0)
        adapters = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64),
            lora.init(settings, params, key=jax.random.key(0)),
        )
        merged = lambda a: lora.merge(params, a, scale=settings.scale)  # noqa: E731
        report = check.verify(
            lambda a, b: apply(merged(a), b),
            adapters,
            trait_loss=lambda a: trait(merged(a)),
            inputs=batch,
            loss=loss,
        )
        assert report.passed, report


@pytest.mark.slow
def test_the_same_experiment_from_a_transformers_checkpoint(folder, made, tmp_path):
    """`--model`: checkpoints that transformers saved go through the same stages, with LoRA."""
    pytest.importorskip("torch")
    import transformers

    found, store = made
    for seed, name in enumerate(("model", "other")):
        base = store.folder(found.base(seed))
        transformers.LlamaForCausalLM.from_pretrained(base).save_pretrained(tmp_path / name)
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / name)
    experiment.main(
        microworld,
        [
            *TINY,
            "--num-seeds",
            "1",
            "--lora-rank",
            "2",
            "--targets",
            "sampled",
            "--model",
            str(tmp_path / "model"),
            "--other-model",
            str(tmp_path / "other"),
            "--work",
            str(tmp_path / "work"),
            "--out",
            str(tmp_path / "out"),
        ],
    )
    rows = record.read_rows(tmp_path / "out")
    arms = {(row["target"], row["start"]) for row in rows}
    assert arms >= {("sampled", start) for start in microworld.STARTS}
    meta = json.loads((tmp_path / "out" / "config.json").read_text())
    assert meta["config"]["lora_rank"] == 2
    # The checkpoint is the one that chain 0 of the folder started from, through another library.
    ours = {
        r["trait"]: r["margin"]
        for r in record.read_rows(folder / "run")
        if (r["teacher"], r["target"], r["seed"]) == ("control", "teacher", 0)
    }
    theirs = {
        r["trait"]: r["margin"]
        for r in rows
        if (r["teacher"], r["target"]) == ("control", "teacher")
    }
    assert theirs == pytest.approx(ours, abs=1e-4)
