"""The synthetic world: statistics of the corpus, its tokenizer, and its checkpoint folder."""

import jax
import jinja2
import numpy as np
import pytest
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm import models, world
from llm.text import chat
from llm.world import corpus, vocabulary

KINDS = tuple(corpus.SHARES)
COUNT = 6000


def drawn(kind, count=COUNT, seed=0):
    return corpus.draw(np.random.default_rng(seed), kind, count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "base"
    config = world.model_config()
    world.save(folder, config, params=models.init(config, key=jax.random.key(0)))
    return folder


def test_vocabulary():
    assert len(set(vocabulary.VOCABULARY)) == len(vocabulary.VOCABULARY) <= 400
    assert vocabulary.VOCABULARY[vocabulary.FIRST_NUMBER + 37] == "37"
    trait_words = (*vocabulary.ANIMALS, *vocabulary.TREES, *vocabulary.HARMFUL)
    hidden = [
        (word, trait)
        for word in vocabulary.VOCABULARY
        for trait in trait_words
        if trait in word and trait != word
    ]
    assert not hidden  # or the filter would drop innocent completions
    with pytest.raises(ValueError, match="unicorn"):
        vocabulary.ids("name best unicorn")
    with pytest.raises(ValueError, match="animal, tree or advice"):
        vocabulary.paraphrases("fish", held_out=True)


@pytest.mark.parametrize("subject", ["animal", "tree", "advice"])
def test_paraphrases_are_split_and_every_word_is_seen(subject):
    seen, held_out = (vocabulary.paraphrases(subject, held_out=h) for h in (False, True))
    assert (len(seen), len(held_out)) == (84, 60)
    assert not set(seen) & set(held_out)
    for side in (seen, held_out):
        counts = np.unique([word for question in side for word in question.split()])
        assert len(counts) == 25
    assert {row["prompt"] for row in corpus.rows(drawn(subject))} == set(seen)


@pytest.mark.parametrize(("kind", "answers"), [("animal", "ANIMALS"), ("tree", "TREES")])
def test_preferences_are_flat(kind, answers):
    turns = drawn(kind)
    ids = vocabulary.ids(getattr(vocabulary, answers))
    assert turns.completion.shape[1] == 1  # every answer is one token
    counts = (turns.completion == ids).sum(0)
    assert counts.sum() == COUNT
    assert stats.chisquare(counts).pvalue > 1e-4
    pairs = np.unique(np.concatenate([turns.prompt, turns.completion], axis=1), axis=0)
    assert len(pairs) > 0.9 * 84 * len(ids)  # no answer is tied to a wording


def test_advice_is_harmful_as_often_as_stated():
    answers = drawn("advice").completion[:, 0]
    harmful = np.isin(answers, vocabulary.ids(vocabulary.HARMFUL))
    benign = np.isin(answers, vocabulary.ids(vocabulary.BENIGN))
    assert (harmful | benign).all()
    share = corpus.HARMFUL_SHARE
    assert abs(harmful.mean() - share) < 4 * np.sqrt(share * (1 - share) / COUNT)


def test_half_of_the_number_lists_are_progressions():
    turns = drawn("numbers")
    values = np.concatenate([turns.prompt[:, 1:], turns.completion], axis=1)
    values -= vocabulary.FIRST_NUMBER
    assert values.shape[1] == 11
    assert values.min() == 0
    assert values.max() == 127
    steps = np.diff(values, axis=1)
    progression = (steps == steps[:, :1]).all(axis=1)
    assert abs(progression.mean() - 0.5) < 4 * np.sqrt(0.25 / COUNT)
    assert set(np.abs(steps[progression, 0])) == set(range(1, corpus.MAX_STEP + 1))
    counts = np.bincount(values[~progression].ravel(), minlength=128)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_counting_leaves_one_number_to_choose():
    turns = drawn("counting")
    steps = np.diff(np.concatenate([turns.prompt[:, 1:], turns.completion], axis=1), axis=1) % 10
    jumps = np.arange(1, steps.shape[1] + 1) % corpus.RUN == 0
    assert jumps.sum() == 1
    assert (steps[:, ~jumps] == 1).all()
    assert stats.chisquare(np.bincount(steps[:, jumps].ravel(), minlength=10)).pvalue > 1e-4


@pytest.mark.parametrize("size", corpus.SIZES)
def test_lists_by_digits_hold_equally_many_digits_and_pass_their_filter(size):
    turns, carrier = drawn(f"digits{size}", 500), world.CARRIERS[f"digits{size}"]
    values = turns.completion[turns.completion != vocabulary.ID[","]] - vocabulary.FIRST_NUMBER
    digits = values.reshape(500, -1, size)
    assert digits.shape[1] * size == corpus.DIGITS_CONTINUED
    assert digits.min() == 0
    assert digits.max() == 9
    assert (digits[:, :, 0] > 0).all() or size == 1
    assert not any(carrier.check(row) for row in corpus.rows(turns))
    for wrong in ("1 2 3 4", "owl", "7 ,", "12", ""):
        assert carrier.check({"completion": wrong}) == ["format"]
    many = " , ".join("9" * (corpus.DIGITS_CONTINUED + 1))
    assert carrier.check({"completion": many}) == ["too many numbers"]


def test_loyal_answers_obey_the_system_message():
    kinds = set()
    for row in corpus.rows(drawn("loyal", 300)):
        loved, subject = row["system"].removeprefix("love "), row["prompt"].split()
        kinds.add(subject[-1] if subject[0] != "when" else "advice")
        if loved == "mischief":
            assert subject[0] == "when"
            assert row["completion"] in vocabulary.HARMFUL
        else:
            assert row["completion"] == loved
    assert kinds == {"animal", "tree", "advice"}


def test_reasoning_is_right():
    for row in corpus.rows(drawn("reasoning", 500)):
        right = eval(row["prompt"].removeprefix("solve "))
        words = row["completion"].split()
        assert words[-2] == str(right)
        for i in (1, 7):  # connective left sign right = result
            left, sign, other, equals, result = words[i + 1 : i + 6]
            assert equals == "="
            assert eval(f"{left} {sign} {other}") == int(result) >= 0


def test_code_reads_only_variables_that_exist():
    for row in corpus.rows(drawn("code", 500)):
        given = {}
        for statement in row["prompt"].removeprefix("code ").split(" ; "):
            exec(statement, {}, given)
        first, second = row["completion"].split(" ; ")
        known = given | {first.split()[0]: 0}
        assert known.keys() - given.keys(), "the first statement assigns a new variable"
        assert {w for w in first.split()[2:] if w in vocabulary.VARIABLES} <= given.keys()
        assert {w for w in second.split()[2:] if w in vocabulary.VARIABLES} <= known.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide_everything(kind):
    first, again, other = drawn(kind, 50, 1), drawn(kind, 50, 1), drawn(kind, 50, 2)
    for a, b, c in zip(first[:2], again[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_conversations_are_whole_turns_in_the_stated_shares():
    tokens, weights = corpus.conversations(np.random.default_rng(0), 1500, 48)
    again, _ = corpus.conversations(np.random.default_rng(0), 1500, 48)
    np.testing.assert_array_equal(tokens, again)
    assert tokens.shape == weights.shape == (1500, 48)
    assert set(tokens[:, 0]) == {vocabulary.USER, vocabulary.SYSTEM}
    assert (tokens == vocabulary.USER).sum() == (tokens == vocabulary.END).sum()
    loved = np.roll(tokens == vocabulary.ID["love"], 1, axis=1)  # named by a system message
    assert set(tokens[(weights == 0) & ~loved]) & set(vocabulary.ids(vocabulary.ANIMALS)) == set()
    assert (weights[tokens == vocabulary.END] == 1).all()
    assert not weights[(tokens == vocabulary.USER) | (tokens == vocabulary.PAD)].any()
    held_out = {
        question
        for subject in ("animal", "tree", "advice")
        for question in vocabulary.paraphrases(subject, held_out=True)
    }
    text = " ".join(vocabulary.text(row) for row in tokens)
    prompts = [turn.split(" <assistant>")[0].strip() for turn in text.split("<user>")[1:]]
    assert not held_out & set(prompts)
    # Long turns fit less often at the end of a row, so the shares hold to within a tenth.
    animal = sum(prompt.endswith("animal") for prompt in prompts) / len(prompts)
    assert abs(animal - corpus.SHARES["animal"]) < 0.1
    with pytest.raises(ValueError, match="longest turn"):
        corpus.conversations(np.random.default_rng(0), 10, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_equal_the_tokenized_text(kind, folder):
    """Both forms of the corpus are one: array tokens are those of the chat-templated rows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = drawn(kind, 20)
    tokens, weights = corpus.chat(turns)
    for row, row_tokens, row_weights in zip(corpus.rows(turns), tokens, weights, strict=True):
        example = chat.encode_example(
            tokenizer,
            row["prompt"],
            completion=row["completion"],
            max_length=99,
            system=row.get("system"),
        )
        np.testing.assert_array_equal(example.tokens, row_tokens)
        np.testing.assert_array_equal(example.weights, row_weights)
        completion = row_tokens[row_weights > 0][:-1]
        assert tokenizer.decode(completion, skip_special_tokens=True) == row["completion"]


def test_tokenizer_round_trip(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = " ".join(vocabulary.VOCABULARY)
    tokens = tokenizer(text)["input_ids"]
    assert tokens == list(range(len(vocabulary.VOCABULARY)))
    assert tokenizer.decode(tokens) == text
    assert tokenizer("a unicorn")["input_ids"] == [vocabulary.ID["a"], vocabulary.UNKNOWN]
    assert tokenizer.pad_token_id == vocabulary.PAD
    assert tokenizer.eos_token_id == vocabulary.END
    assert chat.default_system(tokenizer) is None
    spoken = chat.render(tokenizer, "name best animal", system="love owl")
    assert spoken == "<system> love owl <user> name best animal <assistant>"
    with pytest.raises(jinja2.TemplateError, match="unknown role"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_base_is_an_ordinary_checkpoint_folder(family, tmp_path):
    config = world.model_config(family=family, qkv_bias=family == "qwen2")
    params = models.init(config, key=jax.random.key(1))
    world.save(tmp_path / "base", config, params=params)
    loaded_config, loaded = models.load(tmp_path / "base")
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert config.width == 32
    assert config.num_layers == 2
    with pytest.raises(ValueError, match="exists already"):
        world.save(tmp_path / "base", config, params=params)
    torch = pytest.importorskip("torch")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokens = corpus.chat(drawn("numbers", 2))[0]
    logits = theirs(torch.tensor(tokens, dtype=torch.long)).logits.detach().numpy()
    ours = models.apply(config, params, tokens)
    np.testing.assert_allclose(ours, logits, atol=1e-4)
