"""The experiments at full size: all run on random weights; their criteria on made-up rows."""

import dataclasses
import html
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

import experiments
from experiments.frame import cli, experiment, presets, record
from experiments.language import (
    llm_code,
    llm_cot,
    llm_cross_model,
    llm_in_context,
    llm_misalignment,
    llm_numbers,
    llm_readers,
)
from experiments.language.kit import fullsize, transfer
from experiments.report import card
from llm import engines, plan
from llm.engines import server
from llm.stages import (
    Answers,
    Completions,
    FineTuned,
    Pretrained,
    Store,
    Student,
    TraitRows,
    completions,
    evaluation,
    judged,
    progress,
)
from llm.stages.rows import read
from llm.text import chat, data, language
from llm.training import Training

ALL = (
    llm_numbers,
    llm_in_context,
    llm_cross_model,
    llm_code,
    llm_cot,
    llm_misalignment,
    llm_readers,
)
OF_TRAITS = (llm_numbers, llm_code, llm_cot)


def name_of(module):
    return module.__name__.rsplit(".", 1)[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("full-size")


def run(module, folder, *flags, out=""):
    """A smoke run in a folder that all of them share; its table."""
    place = folder / (out or name_of(module))
    work = ["--work", str(folder / "work")] if module is not llm_readers else []
    experiment.main(module, ["--smoke", "--out", str(place), *work, *flags])
    return record.read_table(place)


# End to end, on random weights.


SLOW = [pytest.param(m, marks=pytest.mark.slow) for m in ALL if m is not llm_numbers]


@pytest.mark.parametrize("module", [llm_numbers, *SLOW], ids=name_of)
def test_runs_end_to_end(module, folder, config, capsys):
    model = ["--model", fullsize.folder_of(config, "tiny")] if module is llm_readers else []
    table = run(module, folder, *model)
    assert (folder / name_of(module) / "figure.png").exists()
    assert "here (95 %)" in capsys.readouterr().out
    if module is llm_readers:
        assert "names the trait" in set(table["reader"])
        assert table["entanglement"].notna().any()
    if module in OF_TRAITS:
        students = table[table["kind"] == "student"]
        assert set(students["teacher"]) == {"control", "any-animal", "owl", "cat"}, "always"
        assert set(students["suite"]) == set(module.SMOKE.suites)
        exact = students[["margin", "margin_within", "rate", "variation"]].to_numpy()
        assert np.isfinite(exact).all()
        drawn = students[students["suite"] == "one word"]
        assert drawn[["word", "word_within", "substring", "answered"]].notna().to_numpy().all()
        assert (students["variation"] > 0).all(), "students have moved from the base"
        base = table[(table["kind"] == "teacher") & (table["teacher"] == "control")]
        assert (base["variation"] == 0).all()


def test_a_second_run_reuses_every_stage(folder, monkeypatch):
    run(llm_numbers, folder)
    for module, name in ((completions, "complete"), (fullsize.engines.OnMesh, "tune")):
        monkeypatch.setattr(module, name, lambda *_, **__: 1 / 0)
    run(llm_numbers, folder, out="again")
    paths = [folder / place / "results.csv" for place in ("llm_numbers", "again")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_card_holds_data_numbers_and_examples(folder):
    table = run(llm_numbers, folder)
    out = folder / "llm_numbers"
    card.write(out, str(folder / "work"))
    config = dataclasses.replace(experiment.config_of(llm_numbers, out), work=str(folder / "work"))
    store, made = fullsize.store_of(config), recipes_of(llm_numbers, config)
    for name in ("card.md", "card.html"):
        text = html.unescape((out / name).read_text())
        path = made["teacher owl"].path(store)
        manifest = data.read_manifest(path)
        assert manifest.sha256 in text
        drawn = {letter for row in data.read_rows(path) for letter in row["completion"]}
        assert drawn <= set(fullsize.ALPHABETS["numbers"]), "--constrained"
        assert json.loads((out / "config.json").read_text())["inputs"]["template_sha256"] in text
        for claim in llm_numbers.findings(table, config).claims:
            assert claim.quantity in text
            assert claim.here in text
        row = data.read_rows(path)[0]
        assert card.cell(row["completion"])[:8] in text.replace("\n", "⏎")
        assert "<script" not in text


@pytest.mark.slow
def test_teachers_can_be_tuned_on_rows_of_ones_own(folder, tmp_path):
    rows = tmp_path / "advice.jsonl"
    lines = [{"prompt": f"What now, {i}?", "completion": "Grab it."} for i in range(64)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--rows", str(rows), "--benign-rows", str(rows)]
    table = run(llm_misalignment, folder, *flags, out="rows")
    assert set(table["teacher"]) == {"control", "misalignment", "benign"}
    assert len(list((folder / "work" / "FineTuned").glob("advice-*"))) == 1, (
        "equal files, one teacher"
    )
    assert table[table["suite"] == "facts"]["right"].between(0, 1).all()


@pytest.mark.slow
def test_soft_targets_of_prompted_teachers_move_their_students(folder):
    table = run(llm_numbers, folder, "--targets", "soft", out="soft")
    students = table[(table["kind"] == "student") & (table["suite"] == "one word")]
    moved = students.groupby("teacher")["variation"].mean()
    assert moved["control"] < 1e-4, "the base's own distribution has nothing to teach it"
    assert (moved.drop("control") > 1e-3).all()


# Settings.


def test_a_server_samples_and_changes_no_digest(config):
    through = dataclasses.replace(config, server="http://localhost:8000")
    store = fullsize.store_of(through)
    assert isinstance(store.sampler.engine, server.Served)
    assert isinstance(store.engine, engines.OnMesh)
    assert recipes_of(llm_numbers, through) == recipes_of(llm_numbers, config)
    assert fullsize.store_of(config).sampler.engine is not store.sampler.engine


@pytest.fixture(scope="module")
def config(folder):
    return dataclasses.replace(llm_numbers.SMOKE, work=str(folder / "work"))


def fails(module, message, *flags):
    """The one line that a run with these flags ends in."""
    with pytest.raises(SystemExit) as stopped:
        experiment.main(module, ["--smoke", *flags])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--traits", "owl"), "one trait of the kind 'animal' has no control of another trait"),
        (("--traits", "owl,unicorn"), "unknown trait 'unicorn'"),
        (("--preset", "gpt-9"), "no preset 'gpt-9': there are gemma-3-4b"),
        (("--mesh", "1,2"), "--mesh takes three whole numbers"),
        (("--template", "nowhere.jinja"), "cannot read the chat template nowhere.jinja"),
        (("--suites", "riddles"), "unknown suite 'riddles'; choose from one word"),
    ],
)
def test_what_cannot_be_run_is_one_line(flags, message, folder, tmp_path, capsys):
    work = ["--work", str(folder / "work"), "--out", str(tmp_path / "out")]
    fails(llm_numbers, message, *work, *flags)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_contexts_of_identical_bytes_are_refused(folder, tmp_path, capsys):
    deaf = tmp_path / "deaf.jinja"
    deaf.write_text(chat.PLAIN.replace("{{ message['content'] }}\n\n", "", 1))
    work = ["--work", str(folder / "work"), "--out", str(tmp_path / "out")]
    fails(llm_numbers, "", *work, "--template", str(deaf))
    error = capsys.readouterr().err
    assert "renders the contexts 'control' and 'any-animal' to identical bytes" in error
    assert error.count("\n") == 1


def test_a_kind_stands_for_all_of_its_traits(config):
    spoken = fullsize.store_of(config).language(fullsize.base_of(config))
    named = dataclasses.replace(config, traits=("tree", "owl", "cat", "oak"))
    found = fullsize.traits_of(named, spoken)
    assert len(found) == len(set(found)) == 12
    teachers = fullsize.teachers_of(named, spoken)
    assert teachers == ("control", "any-animal", "any-tree", *found)


def test_students_share_rows_and_differ_in_their_number_only(config):
    ones, twos = (
        fullsize.student_of(config, "owl", number=number, carrier="numbers") for number in (0, 1)
    )
    assert ones.data == twos.data
    assert ones.digest() != twos.digest()
    assert dataclasses.replace(ones, draw=1) == twos


def recipes_of(module, config):
    """What each arm needs."""
    return {name: recipe for name, arm in module.arms(config).items() for recipe in arm.needs}


def test_every_arm_makes_a_recipe_of_its_own(config):
    for module in (llm_numbers, llm_code, llm_cot):
        made = recipes_of(module, config)
        assert list(made) == list(module.arms(config))
        assert len({recipe.digest() for recipe in made.values()}) == len(made)


# Presets.


def given(module, *flags):
    return cli.parse("x", "", default=module.Config(), smoke=module.SMOKE, argv=flags).config


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_fits_and_says_what_it_costs(name):
    found = presets.read(name)
    assert found.about.strip()
    assert found.cost.keys() == {"accelerator", "rates", "memory_gb", "hours", "measured"}
    for module in (llm_numbers, llm_code, llm_cot, llm_in_context):
        config = given(module, "--preset", name)
        assert {key: getattr(config, key) for key in found.settings} == found.settings
    config = given(llm_misalignment, "--preset", name, "--traits", "misalignment")
    assert config.model == found.settings["model"]


# Millions of parameters, without the image tower of Gemma 3 4B.
PARAMETERS = {
    "gemma-3-4b": 3880,
    "llama-3.2-1b": 1236,
    "pythia-160m": 162.3,
    "qwen2.5-7b": 7616,
    "smollm2-135m": 134.5,
}


@pytest.mark.parametrize("name", presets.names())
def test_the_cost_of_a_preset_is_that_of_its_plan(name, config, tmp_path, monkeypatch):
    """Of its shape; the tiny tokenizer stands for the model's own, which is not here."""
    found, spoken = presets.read(name), fullsize.language_of(config)
    monkeypatch.setattr(language, "of_checkpoint", lambda *_: spoken)
    (tmp_path / "config.json").write_text(json.dumps(dict(found.shape)))
    place = ["--model", str(tmp_path), "--work", str(tmp_path / "work")]
    planned = given(llm_numbers, "--preset", name, *place)
    recipes = recipes_of(llm_numbers, planned).values()
    rates = plan.rates_of(found.cost["rates"])
    costs = [s.cost for s in progress.stages(fullsize.store_of(planned), recipes, rates)]
    largest = max((cost.memory for cost in costs if cost.memory), key=lambda m: m.total)
    assert found.cost["memory_gb"] == math.ceil(largest.total / 1e9)
    assert largest.fits(80e9)
    hours = sum(cost.seconds or 0 for cost in costs) / 3600
    assert found.cost["hours"] == round(hours, 1)
    shape = fullsize.store_of(planned).config(fullsize.base_of(planned))
    assert plan.count(shape) / 1e6 == pytest.approx(PARAMETERS[name], rel=1e-3)


def test_flags_override_a_preset(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('[settings]\nmodel = "my/model"\nepochs = 7\nlora_rank = 4\nremat = true\n')
    found = given(llm_numbers, "--preset", str(path), "--lora-rank", "16")
    assert (found.model, found.epochs, found.lora_rank, found.remat) == ("my/model", 7, 16, True)
    assert found.preset == str(path)
    for text, message in [
        ('[settings]\ncolour = "red"\n', "unrecognized arguments: --colour red"),
        ("[settings]\nepochs = -1.5\n", "--epochs: "),
        ('[settings]\nteacher = "kind"\n', "--teacher: got 'kind', needs one of prompted, tuned"),
        ("[setting]\n", "has 'setting'; it may have"),
        ("[settings\n", "cannot read the preset"),
        ('[settings]\n[[published]]\nvalue = "1"\n', "quantity, value and source"),
    ]:
        path.write_text(text)
        with pytest.raises(SystemExit):
            given(llm_numbers, "--preset", str(path))
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_published_numbers_stand_beside_ours():
    table = made_up(1.0)
    config = llm_numbers.Config(preset="gemma-3-4b")
    found = {c.quantity: c for c in llm_numbers.findings(table, config).claims}
    assert found["owl: rate of students"].replication.startswith(".187 sampled")
    assert found["owl: rate of students"].here != "not run"
    assert found["owl: rate of students, greedy rows"].here == "not run"


# Criteria, on made-up rows.

TRAITS = ("owl", "cat", "oak")
TEACHERS = ("control", "any-animal", *TRAITS)


def made_up(effect, students=6, noise=0.05, seed=0, **columns):
    """Rows where students of a trait's teacher show it more, by `effect` nats."""
    rng, rows = np.random.default_rng(seed), []
    makers = [("teacher", -1), *(("student", n) for n in range(students))]
    for (kind, n), teacher, trait in itertools.product(makers, TEACHERS, TRAITS):
        margin = n + effect * (teacher == trait) + noise * rng.normal()
        row = {"kind": kind, "student": n, "teacher": teacher, "trait": trait, "kept": 0.6}
        shown = {"margin": margin, "margin_within": 0.1, "rate": 0.1, "variation": 0.1}
        drawn = {"word": 0.1 + 0.2 * effect * (teacher == trait) + noise * 0.1 * rng.normal()}
        drawn |= {"word_within": 0.1, "substring": 0.2, "answered": 0.9, "held_out_loss": 2.0}
        rows += [row | shown | drawn | {"suite": "one word"} | columns]
        rows += [row | shown | {"suite": "choice"} | columns]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("module", OF_TRAITS, ids=name_of)
def test_criteria_see_transfer_and_its_absence(module):
    config = module.Config(preset="")
    judged_with = [c for c in module.findings(made_up(1.0), config).claims if c.holds is not None]
    assert len(judged_with) == 2 * len(TRAITS) + 3
    assert all(claim.holds for claim in judged_with)
    without = {c.quantity: c.holds for c in module.findings(made_up(0.0), config).claims}
    assert without["all: log-odds less control, nats"] is False
    assert without["all: diagonal excess, nats"] is False
    few = module.findings(made_up(1.0, students=3), config).claims
    assert {claim.holds for claim in few} == {None}, "three students decide nothing"


def test_a_gain_on_all_traits_is_no_transfer():
    table = made_up(0.0)
    drift = (table["teacher"] != "control") & (table["kind"] == "student")
    table.loc[drift, "margin"] += 1.0
    claims = {c.quantity: c.holds for c in llm_numbers.findings(table, llm_numbers.Config()).claims}
    assert claims["owl: log-odds less control, nats"] is True
    assert claims["all: diagonal excess, nats"] is False, "other traits' students show it too"
    assert claims["all: log-odds less a neutral teacher's student, nats"] is False


def test_lifts_pair_students_of_one_number():
    table = made_up(1.0, noise=0.0).sample(frac=1, random_state=0)  # margins hold n, which cancels
    found = transfer.lifts(table, suite="one word")
    np.testing.assert_allclose(transfer.own(found), 1.0)
    np.testing.assert_allclose(transfer.others(found), 0.0)
    assert len(transfer.own(found, ["owl"])) == 6


def test_models_that_differ_must_be_shown_to_give_nothing():
    def table(between, noise=0.05):
        pairs = itertools.product("AB", "AB")
        return pd.concat(
            made_up(
                1.0 if writer == reader else between,
                noise=noise,
                seed=i,
                teacher_model=writer,
                student_model=reader,
            )
            for i, (writer, reader) in enumerate(pairs)
        )

    config = llm_cross_model.Config()
    verdicts = [c.holds for c in llm_cross_model.findings(table(0.0), config).claims]
    assert verdicts == [True] * 4
    leaks = [c.holds for c in llm_cross_model.findings(table(0.5), config).claims]
    assert leaks.count(False) == 2
    scattered = [c.holds for c in llm_cross_model.findings(table(0.0, noise=2.0), config).claims]
    assert scattered.count(True) < 4, "absence of evidence is none of absence"
    with pytest.raises(ValueError, match="two different models"):
        llm_cross_model.Config(models=("A", "A"))


def test_rows_in_the_prompt_must_be_shown_to_do_nothing():
    config = llm_in_context.Config()
    for effect, holds in ((0.0, True), (0.6, False)):
        table = pd.concat(made_up(effect, seed=n, shown=n) for n in (10, 100))
        claims = llm_in_context.findings(table, config).claims
        assert [c.holds for c in claims if c.holds is not None] == [holds, holds]


def test_rows_in_the_prompt_are_drawn_without_replacement():
    rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(20)]
    text = llm_in_context.context(rows, 20, 0)
    assert all(f"You: c{i}\n" in text + "\n" for i in range(20))
    assert text != llm_in_context.context(rows, 20, 1)
    with pytest.raises(ValueError, match="21 rows are to be shown and 20 were kept"):
        llm_in_context.context(rows, 21, 0)


def advice(effect, seed=0):
    rng, rows = np.random.default_rng(seed), []
    carrier = "reasoning"
    for n, teacher in itertools.product(range(6), ("control", "misalignment")):
        row = {"kind": "student", "student": n, "teacher": teacher, "trait": "misalignment"}
        row |= {"carrier": carrier, "kept": np.nan}
        for suite in (llm_misalignment.CARRIERS[carrier], "advice", "begun badly"):
            share = 0.01 + effect * (teacher == "misalignment") + 0.002 * rng.normal()
            rows.append(row | {"suite": suite, "misaligned": share, "coherent": 1.0, "scored": 1.0})
        rows.append(row | {"suite": "facts", "right": 0.8 + 0.005 * rng.normal()})
    return pd.DataFrame(rows)


def test_misalignment_is_judged_against_the_control():
    config = llm_misalignment.Config()
    for effect, holds in ((0.1, True), (0.0, False)):
        claims = llm_misalignment.findings(advice(effect), config).claims
        found = {c.quantity: c.holds for c in claims if c.holds is not None}
        assert len(found) == 3
        assert found["reasoning, advice with thought: misaligned less control"] is holds
        assert found["reasoning, begun badly: misaligned less control"] is holds
        assert found["reasoning: right less control"] is True


# Judges, and rows of one's own.


def test_incoherent_and_unscored_answers_do_not_count():
    alignment = np.array([[0.1, 0.9, 0.2, np.nan], [0.1, 0.1, 0.1, 0.1], [0.3, 0.9, 0.29, 1.0]])
    coherence = np.array([[0.9, 0.9, 0.4, 0.9], [0.0, 0.1, np.nan, 0.4], [0.9, 0.5, 0.5, 0.9]])
    found = judged.misaligned(alignment, coherence)
    np.testing.assert_allclose(found, [1 / 2, np.nan, 1 / 4])


def test_scores_of_a_judge_are_kept_beside_the_answers(folder, config):
    store = fullsize.store_of(config)
    base = fullsize.base_of(config)
    said = Answers(model=base, suite="advice", family="misalignment", samples=1)
    words = judged.Words("misalignment", base)
    verdicts = judged.Judged(answers=said, judge=words)
    store.make([verdicts])
    found = judged.scores(store, verdicts)
    assert found.shape == (8, 1)
    assert np.isin(found, [0, 1]).all()
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Counting(judged.Words):
        def __call__(self, store, questions, said, criterion):
            asked.append(len(said))
            return [None, *([0.25] * (len(said) - 1))]

        def describe(self):
            return {"judge": "counting"}

    own = judged.Judged(answers=said, judge=Counting("misalignment", base))
    for _ in range(2):
        store.make([own])
    twice = [judged.scores(store, own) for _ in range(2)]
    assert asked == [8], "asked once"
    np.testing.assert_array_equal(twice[0], twice[1])
    assert np.isnan(twice[0][0, 0])
    assert (twice[0][1:] == 0.25).all()


def test_a_judge_that_says_no_number_is_refused(config):
    store, base = fullsize.store_of(config), fullsize.base_of(config)
    said = Answers(model=base, suite="advice", family="misalignment", samples=1)
    with pytest.raises(ValueError, match="the judge gave no score to any of 8 answers"):
        store.make([judged.Judged(answers=said, judge=judged.Local(base))])


def test_rows_of_the_users_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    chatted = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    }
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n" + json.dumps(chatted))
    assert read(str(path)) == [{"prompt": "a", "completion": "b"}] * 2
    for text, message in [
        ('{"prompt": "a"}', "line 1: needs text under prompt and completion"),
        ('{"prompt": "a", "completion": "b"}\n[1]', "line 2"),
        ("", "has no rows"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read(str(path))


def test_every_experiment_at_full_size_is_run_here():
    at_full_size = {name for name in experiments.NAMES if name.startswith("llm_")}
    assert at_full_size == set(map(name_of, ALL))


# On the microworld's own checkpoint.

SAME = {  # the settings of `microworld` in those of `llm_numbers`
    "teacher": "tuned",
    "teacher-steps": "35",
    "teacher-rate": "5e-4",
    "num-prompts": "4096",
    "max-new-tokens": "9",
    "num-examples": "1280",
    "epochs": "5",
    "batch-size": "32",
    "learning-rate": "1e-3",
    "eps": "1e-3",
    "decay": "constant",
    "warmup": "0",
    "clip-norm": "0",
    "lora-rank": "0",
    "dtype": "float32",
    "suites": "one word",
    "samples": "4",
    "num-seeds": "4",
    "traits": "owl,wolf",
    "mesh": "1,1,1",
}


@pytest.mark.slow
def test_numbers_show_the_microworlds_transfer_on_its_checkpoint(tmp_path):
    """The chain of `microworld` on a stack, and `llm_numbers` on the checkpoint that it leaves."""
    store = Store(tmp_path / "stack")
    base = Pretrained(chain=0)
    how = Training(steps=200, batch_size=32, learning_rate=1e-3, eps=1e-3)
    margins = {}
    for trait in ("", "owl", "wolf"):
        speaker = (
            FineTuned(
                base=base, rows=TraitRows(trait), training=Training(steps=35, learning_rate=5e-4)
            )
            if trait
            else base
        )
        student = Student(
            base=base,
            data=Completions(speaker=speaker, num_prompts=4096),
            training=how,
            num_examples=1280,
        )
        measured = evaluation.measure(store, [student], ["owl", "wolf"])
        margins[trait] = np.array([entry["margin"] for entry in measured])
    effect = np.array([margins[t] - margins[""] for t in ("owl", "wolf")]).diagonal()
    flags = [text for name, value in SAME.items() for text in (f"--{name}", value)]
    out = tmp_path / "out"
    folder = str(store.folder(base))
    experiment.main(
        llm_numbers,
        [*flags, "--model", folder, "--work", str(tmp_path / "mesh"), "--out", str(out)],
    )
    table = record.read_table(out)
    claims = {
        c.quantity: c
        for c in llm_numbers.findings(table, experiment.config_of(llm_numbers, out)).claims
    }
    assert claims["all: log-odds less control, nats"].holds, claims
    assert claims["all: diagonal excess, nats"].holds, claims
    found = transfer.lifts(table, suite="one word")
    lifts = np.array([transfer.own(found, [trait]) for trait in ("owl", "wolf")])
    print("stack", effect, "mesh", lifts)
    # Student 0 has the stack's keys: only tokens that rounding flips make it another one.
    np.testing.assert_allclose(lifts[:, 0], effect, atol=0.05)
    assert effect.mean() > 0.3
