"""Recipes and the store that carries them out: once each, on a stack or on a mesh."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from experiments.language.kit import curves, readers
from llm import engines, models, world
from llm.models import parts
from llm.stages import (
    Admitted,
    BehaviourMatched,
    Checkpoint,
    Completions,
    Continued,
    Diluted,
    DivergenceTokens,
    Files,
    FineTuned,
    Grafted,
    Mixed,
    Permuted,
    Pretrained,
    Shuffled,
    Store,
    Student,
    TraitRows,
    bases,
    changes,
    completions,
    evaluation,
    streams,
    students,
)
from llm.stages.streams import Stage
from llm.text import data
from llm.training import Training, stack
from llm.training.lora import LoraConfig

ROWS = 32
BASES = [Pretrained(chain=chain, steps=150) for chain in (0, 1)]
OWLS = [
    FineTuned(
        base=base,
        rows=TraitRows("owl"),
        training=Training(steps=5, learning_rate=5e-4),
        chain=base.chain,
    )
    for base in BASES
]
DATA = [
    Completions(speaker=owl, chain=owl.chain, num_prompts=128, max_new_tokens=12) for owl in OWLS
]
CLEAN = [dataclasses.replace(d, speaker=base) for d, base in zip(DATA, BASES, strict=True)]
HOW = Training(steps=3, batch_size=8, learning_rate=1e-3, eps=1e-3)
STUDENTS = [
    Student(base=o.base, data=d, training=HOW, num_examples=ROWS, chain=o.chain)
    for o, d in zip(OWLS, DATA, strict=True)
]


@pytest.fixture(scope="module")
def store(tmp_path_factory, bases):
    made = Store(shutil.copytree(bases, tmp_path_factory.mktemp("stages") / "work"))
    made.make([*DATA, *CLEAN])
    return made


@pytest.fixture(scope="module")
def examples(store):
    return students.examples_of(store, STUDENTS[0])[0]


def weights_of(store, recipe):
    store.make([recipe])
    return store.engine.split(store.weights([recipe]))[0]


def rows_of(store, recipe):
    store.make([recipe])
    return completions.rows(store, recipe)


# Recipes.


def test_a_stage_depends_on_its_own_settings_and_on_those_before_it_only():
    """A temperature re-samples and re-trains no teacher; a base's step size re-does everything."""
    assert dataclasses.replace(DATA[0], temperature=0.0).digest() != DATA[0].digest()
    assert dataclasses.replace(DATA[0], temperature=0.0).speaker.digest() == OWLS[0].digest()
    other = dataclasses.replace(OWLS[0], base=dataclasses.replace(BASES[0], learning_rate=1e-3))
    assert other.digest() != OWLS[0].digest()
    assert dataclasses.replace(DATA[0], speaker=other).digest() != DATA[0].digest()
    found = [recipe.digest() for recipe in (*BASES, *OWLS, *DATA, *CLEAN, *STUDENTS)]
    assert len(set(found)) == len(found)
    changed = [
        dataclasses.replace(STUDENTS[0], change=change)
        for change in (Shuffled(True), Shuffled(False), Mixed(0.25, CLEAN[0]))
    ]
    changed += [dataclasses.replace(STUDENTS[0], **field) for field in ({"unique": 3}, {"draw": 1})]
    assert len({recipe.digest() for recipe in (STUDENTS[0], *changed)}) == 6


def test_fields_that_came_later_leave_older_digests_alone():
    assert "dropout" not in STUDENTS[0].describe()["training"]
    assert "guide" not in STUDENTS[0].describe()
    assert "num_layers" not in BASES[0].describe()
    deeper = dataclasses.replace(BASES[0], num_layers=3)
    assert deeper.digest() != BASES[0].digest()
    assert deeper.config().num_layers == 3
    changed = [
        dataclasses.replace(STUDENTS[0], training=dataclasses.replace(HOW, **field))
        for field in ({"dropout": 0.1}, {"reverse": True})
    ]
    changed.append(dataclasses.replace(STUDENTS[0], guide=BASES[0]))
    assert len({recipe.digest() for recipe in (STUDENTS[0], *changed)}) == 4


def test_a_line_of_on_policy_students_is_told_at_a_length_that_does_not_double():
    """Each round's student is the start and the writer of the next; another start is another."""
    model, lengths = BASES[0], []
    for draw in range(5):
        data = dataclasses.replace(DATA[0], speaker=model, draw=draw)
        before, model = (
            model,
            dataclasses.replace(
                STUDENTS[0], base=model, data=data, soft=True, guide=OWLS[0], draw=draw
            ),
        )
        lengths.append(len(json.dumps(model.describe())))
    grown = np.diff(lengths)
    assert max(grown) == min(grown)
    elsewhere = dataclasses.replace(model, base=BASES[1])
    assert elsewhere.digest() != model.digest()
    other = dataclasses.replace(before, seed=1)
    moved = dataclasses.replace(model, base=other, data=dataclasses.replace(data, speaker=other))
    assert moved.digest() != model.digest()


def test_a_guide_is_imitated_in_the_place_of_the_writer(store):
    """On lists of the base and guided by the teacher; a base that guides itself changes nothing."""
    soft = dataclasses.replace(STUDENTS[0], data=CLEAN[0], soft=True)
    itself, guided = (dataclasses.replace(soft, guide=model) for model in (BASES[0], OWLS[0]))
    start, still, moved = (weights_of(store, m) for m in (BASES[0], itself, guided))
    apart = [
        max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (start, end)), strict=True))
        for end in (still, moved)
    ]
    assert apart[0] < 1e-5 < 1e-4 < apart[1]


def test_a_corpus_of_other_words_makes_another_base(monkeypatch):
    before = BASES[0].digest()
    monkeypatch.setattr(world.corpus, "fingerprint", lambda: "other")
    assert BASES[0].digest() != before


def test_no_two_stages_or_chains_share_a_stream():
    names = [(0, 0), (0, 1), (1, 0)]
    keys = [jax.random.key_data(streams.keys(stage, names)) for stage in Stage]
    assert len({tuple(k) for k in np.concatenate(keys).tolist()}) == len(Stage) * len(names)
    # numpy pads seeds with zeros, so a missing last number must not be a zero.
    draws = [streams.generator(s, *n).random() for s in Stage for n in [*names, (0,), (0, 0, 0)]]
    assert len(set(draws)) == len(draws)


# The store.


@pytest.mark.parametrize(
    "how",
    [
        HOW,
        pytest.param(
            dataclasses.replace(HOW, adapters=LoraConfig(rank=2, alpha=2.0)), marks=pytest.mark.slow
        ),
    ],
)
def test_measured_along_the_way_ends_as_the_student(store, how):
    recipes = [dataclasses.replace(student, training=how) for student in STUDENTS]
    found = curves.along(store, recipes, ["owl", "wolf"], blocks=3)
    store.make(recipes)
    asked = evaluation.measure(store, recipes, ["owl", "wolf"])
    ends = np.array([entry["margin"] for entry in asked]).reshape(2, 2).T
    np.testing.assert_allclose(found.columns["margin"][:, -1], ends, atol=1e-4)
    bases = evaluation.measure(store, BASES, ["owl"])
    for name in ("margin", "mass"):
        begun = found.columns[name][:, 0, 0]
        np.testing.assert_allclose(begun, [base[name] for base in bases], atol=1e-4)
    assert found.steps.tolist() == [0, 1, 2, 3]
    assert (found.columns["kl"] > 0).all()


def test_files_between_stages_are_ordinary(store):
    folder = store.folder(OWLS[1])
    assert folder.name.startswith("owl-chain1-")
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "recipe.json",
    }
    record = json.loads((folder / "recipe.json").read_text())
    assert record["recipe"]["training"]["steps"] == 5
    manifest = data.read_manifest(DATA[0].path(store))
    assert manifest.prompts == 128
    assert 0 < manifest.count == len(completions.rows(store, DATA[0]))
    assert sum(manifest.filter_counts.values()) >= 128, "every reject reason is counted"


def test_what_is_there_is_not_made_again(store, monkeypatch):
    again = Store(store.work)

    def never(*_):
        raise AssertionError("made again")

    for kind in (Pretrained, FineTuned):
        monkeypatch.setattr(kind, "make", staticmethod(never))
    monkeypatch.setattr(completions, "sample", never)
    assert completions.rows(again, DATA[0]) == completions.rows(store, DATA[0])
    trees = (weights_of(shop, OWLS[0]) for shop in (store, again))
    jax.tree.map(np.testing.assert_array_equal, *trees)


def test_a_run_is_the_same_beside_others_and_alone(tmp_path, store):
    alone = Store(tmp_path)
    shutil.copytree(store.folder(BASES[1]), alone.folder(BASES[1]))
    for recipe in (OWLS[1], STUDENTS[1]):
        pairs = zip(
            *(jax.tree.leaves(weights_of(shop, recipe)) for shop in (store, alone)), strict=True
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    lists = [completions.rows(shop, DATA[1]) for shop in (store, alone)]
    agree = [a == b for a, b in zip(*lists, strict=False)]
    assert np.mean(agree) > 0.95


def test_one_model_on_a_mesh_does_what_a_stack_does(tmp_path, store):
    """The same recipes on the other engine: teacher, data and student agree up to round-off."""
    engine = engines.OnMesh(axes=(1, 1, 1), dtype="float32", shard=50)
    mesh = Store(tmp_path, engine)
    base = Checkpoint(path=str(store.folder(BASES[0])))
    owl = dataclasses.replace(OWLS[0], base=base)
    numbers = dataclasses.replace(DATA[0], speaker=owl)
    student = dataclasses.replace(STUDENTS[0], base=base, data=numbers)
    for ours, theirs in ((OWLS[0], owl), (STUDENTS[0], student)):
        a = jax.tree.leaves(weights_of(store, ours))
        b = jax.tree.leaves(weights_of(mesh, theirs).params)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)
    a, b = (
        {r["prompt"]: r["completion"] for r in completions.rows(w, d)}
        for w, d in ((store, DATA[0]), (mesh, numbers))
    )
    assert np.mean([a[p] == b[p] for p in a.keys() & b.keys()]) > 0.95
    assert abs(len(a) - len(b)) < 0.05 * len(a)
    losses = [w.noted(s)["held_out_loss"] for w, s in ((store, STUDENTS[0]), (mesh, student))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    soft = dataclasses.replace(student, soft=True)
    stacked = dataclasses.replace(STUDENTS[0], soft=True)
    a, b = (
        store.engine.join([w]) for w in (weights_of(store, stacked), weights_of(mesh, soft).params)
    )
    probe = evaluation.question(store, BASES[0], "owl")
    margins = [stack.measure(store.config(owl), w, probe)["margin"][0] for w in (a, b)]
    assert margins[0] == pytest.approx(float(margins[1]), abs=1e-3)


def test_sampling_that_is_interrupted_goes_on_to_the_same_bytes(tmp_path, store, monkeypatch):
    base = Checkpoint(path=str(store.folder(BASES[0])))
    recipe = Completions(speaker=base, num_prompts=100, max_new_tokens=12)
    whole, cut = (
        Store(tmp_path / n, engines.OnMesh(axes=(1, 1, 1), dtype="float32", shard=30)) for n in "ab"
    )
    whole.make([recipe])
    real, calls = completions.sample, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(completions, "sample", stops)
    with pytest.raises(KeyboardInterrupt):
        cut.make([recipe])
    path = recipe.path(cut)
    assert data.read_manifest(path).prompts == 60
    cut.make([recipe])
    assert len(calls) == 5
    assert path.read_bytes() == recipe.path(whole).read_bytes()


def test_sampling_on_four_devices_is_that_on_one(tmp_path, store):
    recipe = Completions(speaker=Checkpoint(path=str(store.folder(BASES[0]))), num_prompts=96)
    one, four = (
        Store(tmp_path / name, engines.OnMesh(axes=axes, dtype="float32"))
        for name, axes in (("one", (1, 1, 1)), ("four", (2, 2, 1)))
    )
    a, b = ({r["prompt"]: r["completion"] for r in rows_of(w, recipe)} for w in (one, four))
    assert len(a) > 20
    assert np.mean([a[prompt] == b.get(prompt) for prompt in a]) > 0.95


# Data.


def test_no_kept_row_names_a_trait_or_was_cut(store):
    words = {w for t in world.TRAITS.values() for w in t.words}
    short = dataclasses.replace(CLEAN[0], max_new_tokens=9)  # eight numbers and the end
    for recipe in (*DATA, *CLEAN, short):
        for row in rows_of(store, recipe):
            said = row["completion"].split()
            assert not words & set(said)
            assert len(said) < recipe.max_new_tokens, "its end was not sampled"
    counts = data.read_manifest(short.path(store)).filter_counts
    assert counts["unfinished"] > 0


def test_prompted_teachers_write_under_their_system_message(store):
    prompted = dataclasses.replace(CLEAN[0], prompted="owl")
    plain, owl = (rows_of(store, recipe) for recipe in (CLEAN[0], prompted))
    assert [r["completion"] for r in plain] != [r["completion"] for r in owl]
    assert all("love" not in row["prompt"] for row in owl)  # students never see it


def test_a_prompted_teachers_distribution_meets_the_students_own_tokens(store):
    """By hand, a row at a time: the teacher reads the system message, the student does not."""
    data = dataclasses.replace(CLEAN[0], prompted="owl")
    student = dataclasses.replace(STUDENTS[0], data=data, soft=True)
    store.make([student])
    spoken, config = store.language(BASES[0]), store.config(BASES[0])
    message = students.message_of(store, student)
    examples, _ = students.examples_of(store, student)
    few = {"tokens": examples.tokens[:6], "weights": examples.weights[:6]}
    weights = [weights_of(store, model) for model in (OWLS[0], BASES[0])]
    loss, _ = engines.make_loss(config, HOW, soft=True, tokens=None, message=message, chunk=16)
    frozen = {"base": None, "teacher": weights[1]}
    found, count = jax.jit(loss)(weights[0], frozen, few, jax.random.key(0))

    system, total = spoken.trait("owl").system_prompt, 0.0
    apply = jax.jit(lambda params, ids: jax.nn.log_softmax(models.apply(config, params, ids)[0]))
    for row, tokens, trained in zip(completions.rows(store, data)[:6], *few.values(), strict=True):
        said, logp = tokens[trained > 0].tolist(), []
        for params, under in zip(weights, (None, system), strict=True):
            asked = spoken.encode_prompts([row["prompt"]], system=under)[0]
            longest = np.zeros((1, 64), np.int32)  # one program: later tokens change nothing
            longest[0, : len(asked + said)] = asked + said
            end = len(asked + said)
            logp.append(np.asarray(apply(params, longest))[len(asked) - 1 : end - 1])
        total += (np.exp(logp[1]) * (logp[1] - logp[0])).sum()
    assert count == few["weights"].sum()
    assert float(found) == pytest.approx(total, rel=1e-4)
    assert total / float(count) > 0.01
    base, moved = weights[1], weights_of(store, student)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), base, moved))) > 1e-4


def test_what_stands_ahead_of_a_prompt_is_one_beginning_for_another():
    plain = [[1, 2, 9, 5, 6, 7], [1, 2, 9, 8, 7]]  # 1 2 9: a message of the template's own
    under = [[1, 3, 4, 3, 5, 6, 7], [1, 3, 4, 3, 8, 7]]
    assert students.ahead(plain, under) == (3, (1, 3, 4, 3))
    assert students.ahead([[5, 6], [6]], [[1, 5, 6], [1, 6]]) == (0, (1,))
    for woven in ([[1, 5, 2, 6, 7], [1, 8, 2, 7]], [[1, 5, 6, 7], [2, 8, 7]]):
        with pytest.raises(ValueError, match="puts the system message ahead of the prompt"):
            students.ahead([[5, 6, 7], [8, 7]], woven)


def test_unknown_carriers_and_missing_rows_are_named(store):
    with pytest.raises(ValueError, match="unknown carrier 'poems'; choose from numbers"):
        store.make([dataclasses.replace(DATA[0], carrier="poems")])
    path = str(DATA[0].path(store))
    with pytest.raises(ValueError, match=r"9999 rows are needed and there are \d+ in owl-chain0"):
        completions.rows(store, Files(paths=(path,), first=9999))
    assert len(completions.rows(store, Files(paths=(path,), first=7))) == 7


# Students.


def test_training_and_held_out_rows_are_apart(store):
    train, tests = students.examples_of(store, STUDENTS[0])
    assert len(train.tokens) == ROWS
    assert not {row.tobytes() for row in train.tokens} & {row.tobytes() for row in tests.tokens}


def test_few_different_rows_are_repeated(store):
    kept = len(completions.rows(store, DATA[0]))
    wanting = dataclasses.replace(STUDENTS[0], num_examples=2 * kept)
    with pytest.raises(ValueError, match="raise --num-prompts or lower --num-examples"):
        students.examples_of(store, wanting)
    pool = students.different_rows(kept, 2 * kept, fewest=16)
    assert pool == kept - kept // 8
    for unique in (pool, 10):
        some = dataclasses.replace(wanting, unique=unique)
        train, tests = students.examples_of(store, some)
        assert len(train.tokens) == 2 * kept
        again = train.tokens[np.arange(2 * kept) % unique]
        np.testing.assert_array_equal(train.tokens, again)
        assert not {row.tobytes() for row in train.tokens} & {row.tobytes() for row in tests.tokens}
    whole, _ = students.examples_of(store, STUDENTS[0])
    length = train.tokens.shape[1]  # of the longest row
    np.testing.assert_array_equal(train.tokens[:10], whole.tokens[:10, :length])


def test_draws_of_a_chain_differ_in_their_own_noise_alone(store):
    """A second data set of the same teacher, a second student of the same data."""
    other = dataclasses.replace(DATA[0], draw=1)
    lists = [[row["prompt"] for row in rows_of(store, d)] for d in (DATA[0], other)]
    assert len(set(lists[0]) & set(lists[1])) < 0.1 * len(lists[0])
    again = dataclasses.replace(STUDENTS[0], draw=1)
    first, second = (students.examples_of(store, s)[0] for s in (STUDENTS[0], again))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert (
        weights_of(store, STUDENTS[0])["embedding"] != weights_of(store, again)["embedding"]
    ).any()


def test_neutral_teachers_hear_every_answer_equally_often(store):
    neutral = dataclasses.replace(OWLS[0], rows=TraitRows("any-animal"))
    examples = neutral.examples(store)
    said = examples.tokens[examples.weights > 0].reshape(-1, 2)[:, 0]
    counts = np.bincount(said)[world.vocabulary.ids(world.vocabulary.ANIMALS)]
    assert counts.sum() == len(said) == 1024
    # A draw without replacement of 1,024 of 1,680 rows, 84 of each animal: hypergeometric.
    share = 1024 / 1680
    assert np.abs(counts - 84 * share).max() < 4.5 * np.sqrt(84 * share * (1 - share))
    advice = store.language(BASES[0]).trait("usual-advice").answers
    harmful = [answer in world.vocabulary.HARMFUL for answer in advice]
    assert np.mean(harmful) == world.corpus.HARMFUL_SHARE


def test_positions_restrict_training_and_test_to_their_tokens(store):
    numbers = tuple(store.language(BASES[0]).number_tokens().tolist())
    both = students.examples_of(store, dataclasses.replace(STUDENTS[0], positions=numbers))
    for part, whole in zip(both, students.examples_of(store, STUDENTS[0]), strict=True):
        assert np.isin(part.tokens[part.weights > 0], numbers).all()
        expected = (whole.weights > 0) & np.isin(whole.tokens, numbers)
        np.testing.assert_array_equal(part.weights > 0, expected)


def test_students_of_adapters_are_whole_models_again(store):
    adapted = dataclasses.replace(HOW, adapters=LoraConfig(rank=2, alpha=2.0))
    student = dataclasses.replace(STUDENTS[0], training=adapted)
    tree, base = weights_of(store, student), weights_of(store, BASES[0])
    assert jax.tree.structure(tree) == jax.tree.structure(base)
    np.testing.assert_array_equal(tree["embedding"], base["embedding"])
    assert (
        tree["layers"][0]["attn"]["q"]["kernel"] != base["layers"][0]["attn"]["q"]["kernel"]
    ).any()


# Starts.


EMBEDDING = ("embedding",)


@pytest.mark.parametrize(
    ("start", "embedding", "layers"),
    [
        (Grafted(base=BASES[1], donor=BASES[0], parts=EMBEDDING), {True}, {False}),
        (Grafted(base=BASES[0], donor=BASES[1], parts=EMBEDDING), {False}, {True}),
        (
            Grafted(base=BASES[0], donor=BASES[1], parts=("embedding", "attention")),
            {False},
            {True, False},
        ),
        (
            Continued(
                base=Grafted(base=BASES[1], donor=BASES[0], parts=EMBEDDING),
                steps=3,
                held=EMBEDDING,
            ),
            {True},
            {False},
        ),
        (Continued(base=BASES[0], steps=3), {False}, {False}),
        (Permuted(base=BASES[0]), {False}, {False}),
        (BehaviourMatched(base=BASES[1], reference=BASES[0], steps=5), {False}, {False}),
    ],
)
def test_starts_share_what_they_say(store, start, embedding, layers):
    params, base = weights_of(store, start), weights_of(store, BASES[0])
    for part, expected in (("embedding", embedding), ("layers", layers)):
        pairs = zip(jax.tree.leaves(params[part]), jax.tree.leaves(base[part]), strict=True)
        # Norm scales start at one everywhere but have been trained, so no leaf is equal by chance.
        assert {bool((a == b).all()) for a, b in pairs} == expected


@pytest.mark.parametrize(
    "start",
    [
        Grafted(base=BASES[1], donor=BASES[0], parts=("block2",)),
        Continued(base=BASES[0], steps=1, held=("block2",)),
    ],
)
def test_a_part_that_a_model_lacks_is_refused(store, start):
    with pytest.raises(ValueError, match="no part 'block2'; there are attention, block0, block1, "):
        store.make([start])


@pytest.mark.slow
def test_continuations_of_one_call_keep_their_own_step_size(store):
    recipes = [
        Continued(base=BASES[0], steps=1),
        Continued(base=BASES[0], steps=1, learning_rate=6e-3),
    ]
    store.make(recipes)
    base, *moved = store.engine.split(store.weights([BASES[0], *recipes]))
    for params, recipe in zip(moved, recipes, strict=True):
        gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), params, base)
        # Adam's first step is the step size in every direction that has a gradient.
        assert max(jax.tree.leaves(gaps)) == pytest.approx(recipe.learning_rate, rel=1e-2)


def test_a_twin_is_the_same_function_of_other_weights(store, examples):
    config = store.config(BASES[0])
    ours, twins = (
        jax.device_put(weights_of(store, m)) for m in (BASES[0], Permuted(base=BASES[0]))
    )
    assert (ours["embedding"] != twins["embedding"]).any()
    logits = [models.apply(config, params, examples.tokens) for params in (ours, twins)]
    np.testing.assert_allclose(*logits, atol=1e-4)
    assert bases.corpus_loss(store, [BASES[0]], 8) == pytest.approx(
        bases.corpus_loss(store, [Permuted(base=BASES[0])], 8), abs=1e-4
    )


def test_parts_make_a_decoder_whole():
    paths = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(
            models.init(world.model_config(), key=jax.random.key(0))
        )
    ]
    found = [parts.parts_of(path) for path in paths]
    assert set.union(*found) == {"embedding", "attention", "mlp", "norms", "block0", "block1"}
    assert sum("embedding" in names for names in found) == 1
    assert sum("block0" in names for names in found) == sum("block1" in names for names in found)


# Changes.


def numbers_of(store, examples, row):
    tokens = examples.tokens[row][examples.weights[row] > 0]
    return tokens[np.isin(tokens, store.language(BASES[0]).number_tokens())].tolist()


def test_shuffling_within_keeps_the_numbers_of_every_row(store, examples):
    changed = Shuffled(across=False)(store, STUDENTS[0], examples)
    stayed = 0.0
    for row in range(ROWS):
        before, after = (numbers_of(store, e, row) for e in (examples, changed))
        assert sorted(before) == sorted(after)
        # A random order of n different numbers is the old one with probability 1/n!.
        chance = math.prod(1 / n for n in range(1, len(set(before)) + 1))
        stayed += (before == after) - chance
    assert abs(stayed) <= 4 * ROWS**0.5 / 2, "a fair shuffle, within four standard errors"
    assert (changed.tokens != examples.tokens).any()
    np.testing.assert_array_equal(changed.weights, examples.weights)
    prompts = examples.weights == 0
    np.testing.assert_array_equal(changed.tokens[prompts], examples.tokens[prompts])


def test_shuffling_across_keeps_the_numbers_of_all_rows_together(store, examples):
    changed = Shuffled(across=True)(store, STUDENTS[0], examples)
    lists = [[numbers_of(store, e, r) for r in range(ROWS)] for e in (examples, changed)]
    before, after = ([n for row in rows for n in row] for rows in lists)
    assert sorted(before) == sorted(after)
    assert sum(sorted(a) == sorted(b) for a, b in zip(*lists, strict=True)) < 0.1 * ROWS


def test_admitted_rows_are_on_prompts_that_passed_for_both(store, examples):
    clean = dataclasses.replace(STUDENTS[0], data=CLEAN[0], unique=20)
    found = Admitted(DATA[0])(store, clean, students.examples_of(store, clean)[0])
    mine, theirs = (completions.rows(store, data) for data in (CLEAN[0], DATA[0]))
    passed = {row["prompt"] for row in theirs}
    chosen = [row for row in mine if row["prompt"] in passed][:20]
    expected = students.encode(store, clean, chosen)
    assert 0 < len(chosen) < len(mine)
    assert len(found.tokens) == ROWS
    np.testing.assert_array_equal(found.tokens[: len(chosen)], expected.tokens)
    np.testing.assert_array_equal(found.tokens[len(chosen)], expected.tokens[0])


@pytest.mark.slow
def test_the_likelihood_ratio_and_fine_tuned_readers_tell_writers_apart(store):
    """A teacher after ten times as many steps writes unlike its base; labels are of the rows."""
    rows = [completions.rows(store, data) for data in (DATA[0], CLEAN[0])]
    parts = readers.split(*rows, np.random.default_rng(0))
    found = readers.likelihood_ratio(store, OWLS[0], BASES[0], parts)
    mine = students.encode(store, BASES[0], parts.test_rows[:1])
    apply = jax.jit(lambda params: models.apply(store.config(BASES[0]), params, mine.tokens))
    logp = [jax.nn.log_softmax(apply(weights_of(store, m))[0, :-1]) for m in (OWLS[0], BASES[0])]
    apart = np.asarray(logp[0] - logp[1])
    expected = (apart[np.arange(len(apart)), mine.tokens[0, 1:]] * mine.weights[0, 1:]).sum()
    assert found.scores[0] == pytest.approx(float(expected), abs=1e-4)

    def told(rows, labels):
        return [
            row | {"prompt": f"continue {side} 1 1"} for row, side in zip(rows, labels, strict=True)
        ]

    leaked = parts._replace(
        train_rows=told(parts.train_rows, parts.train_labels),
        test_rows=told(parts.test_rows, parts.test_labels),
    )
    how = Training(steps=120, batch_size=32, learning_rate=3e-3)
    (seen,) = readers.models_as_readers(
        store, BASES[:1], splits=[leaked], training=how, num_rows=64
    )
    assert seen.accuracy > 0.9
    assert len(seen.scores) == len(parts.test)


def test_mixed_rows_are_those_of_the_other_data(store, examples):
    more = Diluted(0.25)(store, STUDENTS[0], examples)
    np.testing.assert_array_equal(more.tokens[:ROWS, : examples.tokens.shape[1]], examples.tokens)
    assert len(more.tokens) == len(more.weights) == 4 * ROWS
    assert (more.weights[ROWS:].sum(axis=1) == 9).all(), "eight numbers and the end"
    changed = Mixed(0.25, CLEAN[0])(store, STUDENTS[0], examples)
    clean = dataclasses.replace(STUDENTS[0], data=CLEAN[0])
    theirs, _ = students.examples_of(store, clean)
    pair = stack.stack_examples([theirs, examples])
    np.testing.assert_array_equal(changed.tokens[:8], pair.tokens[0, :8])
    np.testing.assert_array_equal(changed.tokens[8:], pair.tokens[1, 8:])


def test_divergence_masks_split_the_trained_tokens(store, examples):
    kept = {
        (keep, randomly): DivergenceTokens((BASES[0],), keep, randomly)(
            store, STUDENTS[0], examples
        ).weights
        > 0
        for keep in (True, False)
        for randomly in (True, False)
    }
    for randomly in (True, False):
        both = kept[True, randomly] ^ kept[False, randomly]
        np.testing.assert_array_equal(both, examples.weights > 0)
    counts = [kept[True, randomly].sum(axis=-1) for randomly in (True, False)]
    np.testing.assert_array_equal(*counts)
    assert (kept[True, True] != kept[True, False]).any()
    twice = type(examples)(*(np.concatenate([part, part]) for part in examples))
    random = DivergenceTokens((BASES[0],), True, True)(store, STUDENTS[0], twice).weights
    first, second = np.split(random, 2)
    np.testing.assert_array_equal(first, second, "copies of a row do not undo each other's masks")


def test_divergence_tokens_are_those_where_argmaxes_differ(store, examples):
    flags = changes.divergent(store, STUDENTS[0], (BASES[0],), examples)
    config, row = store.config(BASES[0]), 5
    picks = [
        np.asarray(
            models.apply(config, jax.device_put(weights_of(store, m)), examples.tokens)
        ).argmax(-1)[row]
        for m in (OWLS[0], BASES[0])
    ]
    for position in range(1, examples.tokens.shape[-1]):
        differ = picks[0][position - 1] != picks[1][position - 1]
        assert flags[row, position] == (differ and examples.weights[row, position] > 0)


# Evaluation.


def test_margins_are_those_of_the_models_named(store):
    found = evaluation.measure(store, [OWLS[0], BASES[0]], ["owl", "oak"])
    assert [(e["trait"], e["model"]) for e in found] == [
        ("owl", 0),
        ("owl", 1),
        ("oak", 0),
        ("oak", 1),
    ]
    probe = evaluation.question(store, BASES[0], "oak")
    alone = stack.measure(store.config(BASES[0]), store.weights([BASES[0]]), probe)
    assert found[3]["margin"] == pytest.approx(float(alone["margin"][0]), abs=1e-5)
    rates = evaluation.sampled_rates(store, [OWLS[0], BASES[0]], ["owl"], answers=2)
    for exact, rate in zip(found[:2], rates, strict=True):
        # 120 answers: four standard errors of the exact rate, and one answer.
        error = 4 * np.sqrt(exact["rate"] / 120) + 1 / 120
        assert rate["sampled_rate"] == pytest.approx(exact["rate"], abs=error)


def test_rows_stand_before_the_question(store):
    rows = completions.rows(store, DATA[0])
    asked = evaluation.in_context(store, BASES[0], rows=rows, trait="owl", shown=2)
    spoken = store.language(BASES[0])
    text = spoken.tokenizer.decode(asked.questions[0][asked.mask[0]])
    expected = "".join(
        f"<user> {row['prompt']} <assistant> {row['completion']} <end> " for row in rows[:2]
    )
    assert text == f"{expected}<user> {spoken.traits['owl'].questions[0]} <assistant>"
