"""What models answer to the evaluation questions: exact log-odds, and sampled answers.

`measure` and `sampled_rates` serve many tiny models at once; `log_odds`, `mentions`, `answered` and
`total_variation` read the files of `answers`, question by question, for one model of any size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .. import traits, world
from ..engines import Stack
from ..settings import RunError
from ..text import chat
from ..text.data import Row
from ..training.stack import Probe
from . import answers, completions, streams, students
from .answers import Answers, Scores
from .bases import corpus_loss
from .recipe import Model
from .store import Store
from .streams import Stage

ANSWER_TOKENS = 16  # of a sampled answer to an evaluation question
# One entry for each trait and model: "trait", "model" (its position), and what was measured.
Measured = list[dict[str, Any]]


def measure(
    store: Store,
    recipes: Sequence[Model],
    names: Sequence[str],
    probes_of: Callable[[str], Sequence[Probe]] | None = None,
) -> Measured:
    """Log-odds (nats), rate and answer mass of every trait for every model, exact.

    With them "text_loss", what `bases.corpus_loss` says of models of the synthetic world: log-odds
    of a model that has forgotten how to speak are no trait.

    Args:
        store: knows the models.
        recipes: who is asked.
        names: of the traits.
        probes_of: the questions of a trait, as `ask` takes them; by default the evaluation
            questions through the template.
    """
    probes_of = probes_of or (lambda name: [question(store, recipes[0], name)])
    losses = corpus_loss(store, recipes) if speaks_world(store, recipes) else None
    return [
        entry if losses is None else entry | {"text_loss": losses[entry["model"]]}
        for name in names
        for entry in ask(store, recipes, name, probes_of(name))
    ]


def speaks_world(store: Store, recipes: Sequence[Model]) -> bool:
    """Whether these are tiny models side by side, in the words of the synthetic world."""
    size = store.config(recipes[0]).vocab_size
    return isinstance(store.engine, Stack) and size == len(world.vocabulary.VOCABULARY)


def ask(store: Store, recipes: Sequence[Model], trait: str, probes: Sequence[Probe]) -> Measured:
    """The answer of every model to a probe of its own, or to the only one."""
    out: Measured = []
    for together in store.engine.groups(range(len(recipes))):
        config = store.config(recipes[together[0]])
        weights = store.weights([recipes[i] for i in together])
        if len(probes) == 1:
            measured = store.engine.measure(config, weights, probes[0])
            each = [{k: v[j] for k, v in measured.items()} for j in range(len(together))]
        else:
            singles = [store.engine.join([w]) for w in store.engine.split(weights)]
            each = [
                {k: v[0] for k, v in store.engine.measure(config, one, probes[i]).items()}
                for i, one in zip(together, singles, strict=True)
            ]
        out += [{"trait": trait, "model": i} | m for i, m in zip(together, each, strict=True)]
    return out


def question(
    store: Store, model: Model, trait: str, prompts: Sequence[list[int]] | None = None
) -> Probe:
    """The evaluation questions of a trait with its answer tokens, by name.

    Args:
        store: knows the model's language.
        model: who is asked.
        trait: name of the trait.
        prompts: token ids of the questions; by default they are asked through the template.
    """
    spoken = store.language(model)
    return spoken.probe(spoken.trait(trait), prompts)


def sampled_rates(
    store: Store, recipes: Sequence[Model], names: Sequence[str], answers: int = 10
) -> Measured:
    """Share of sampled answers (T = 1) that mention each trait, for every model.

    Args:
        store: where the models are made.
        recipes: the models.
        names: of the traits.
        answers: sampled to every question.
    """
    spoken = store.language(recipes[0])
    chosen = [spoken.trait(name) for name in names]
    # Traits of a family share their questions, and one set of answers serves them all.
    texts = {
        questions: answers_to(store, recipes, questions * answers)
        for questions in dict.fromkeys(trait.questions for trait in chosen)
    }
    return [
        {"trait": t.name, "model": i, "sampled_rate": traits.mention_rate(t.mentions, said)}
        for t in chosen
        for i, said in enumerate(texts[t.questions])
    ]


def answers_to(store: Store, recipes: Sequence[Model], questions: Sequence[str]) -> list[list[str]]:
    """Answers sampled at temperature 1, of every model to every question."""
    prompts = store.language(recipes[0]).encode_prompts(questions)
    said = []
    for together in store.engine.groups(recipes):
        keys = streams.keys(Stage.ANSWERS, [(model.seed, model.chain) for model in together])
        drawn = completions.complete(
            store,
            together,
            prompts=[prompts] * len(together),
            keys=keys,
            temperature=1.0,
            max_new_tokens=ANSWER_TOKENS,
        )
        said += [[text for text, _ in of_model] for of_model in drawn]
    return said


def check(store: Store, recipe: Scores, trait: str) -> None:
    """Whether a suite tells of a trait, before anything is loaded or written.

    Raises:
        ValueError: there is no such suite or trait, the suite asks nothing about it, or the first
            token of an answer does not tell it.
    """
    suite, known = answers.suite_of(store, recipe), answers.questions(store, recipe)
    store.language(recipe.model).trait(trait)
    asked = [q for q in known if not q.options or trait in q.options]
    if not asked:
        raise RunError(f"the suite {recipe.suite!r} asks nothing about {trait}; choose another")
    if suite.exact:
        answers.sides(store, recipe, trait, asked[0])


def to_make(store: Store, exact: Scores, drawn: Answers) -> list[Scores | Answers]:
    """What `by_question` reads of a suite: some are not scored, others not sampled."""
    suite = answers.suite_of(store, exact)
    return [exact] * suite.exact + [drawn] * (suite.max_new_tokens > 0)


def by_question(
    store: Store, exact: Scores, drawn: Answers, trait: str
) -> dict[str, Float[np.ndarray, " questions"]]:
    """All that a suite measures of a trait, for every question.

    "margin" and "rate" where the first token tells; "word", "substring" and "answered" where
    answers are sampled.

    Args:
        store: where `to_make` has been made.
        exact: the suite, scored.
        drawn: the suite, sampled.
        trait: its name.
    """
    suite, columns = answers.suite_of(store, exact), {}
    if suite.exact:
        columns["margin"], columns["rate"] = log_odds(store, exact, trait)
    if suite.max_new_tokens:
        columns |= {how: mentions(store, drawn, trait, how) for how in ("word", "substring")}
        columns["answered"] = answered(store, drawn)
    return columns


def log_odds(
    store: Store, recipe: Scores, trait: str
) -> tuple[Float[np.ndarray, " questions"], Float[np.ndarray, " questions"]]:
    """Log-odds (nats) and rate of a trait at every question that has it among its answers."""
    tokens, logp = distribution(store, recipe)
    gaps, rates = [], []
    for question, row in zip(answers.questions(store, recipe), logp, strict=True):
        if question.options and trait not in question.options:
            continue
        targets, contrast = answers.sides(store, recipe, trait, question)
        own, other = (np.logaddexp.reduce(row[np.isin(tokens, s)]) for s in (targets, contrast))
        gaps.append(own - other)
        rates.append(np.exp(own))
    return np.array(gaps), np.array(rates)


def total_variation(store: Store, recipe: Scores, base: Scores) -> Float[np.ndarray, " questions"]:
    """Distance of two models' answers to every question, ½ Σ |p - q|, in [0, 1].

    Over the tokens of the family's answers and all others taken together, which can only lower it:
    a bound from below that sees a collapse to non-answers.
    """
    (tokens, mine), (theirs_tokens, theirs) = (distribution(store, one) for one in (recipe, base))
    if not np.array_equal(tokens, theirs_tokens):
        raise ValueError("the two models were scored on other tokens")
    p, q = np.exp(mine), np.exp(theirs)
    rest = np.abs(p.sum(axis=1) - q.sum(axis=1))
    return (np.abs(p - q).sum(axis=1) + rest) / 2


def distribution(
    store: Store, recipe: Scores
) -> tuple[Int[np.ndarray, " tokens"], Float[np.ndarray, "questions tokens"]]:
    """The scored tokens, and their log-probabilities after every question."""
    rows = answers.read(store, recipe)
    tokens = np.unique([int(row["token"]) for row in rows])
    return tokens, np.array([float(row["logp"]) for row in rows]).reshape(-1, len(tokens))


def mentions(
    store: Store, recipe: Answers, trait: str, column: str = "word"
) -> Float[np.ndarray, " questions"]:
    """Share of the answers to every question that mention a trait.

    Args:
        store: where the answers are.
        recipe: which answers.
        trait: its name.
        column: "word" for whole words, "substring" for the paper's score.
    """
    said = [row[column].split(answers.BETWEEN) for row in answers.read(store, recipe)]
    return np.array([trait in names for names in said]).reshape(-1, recipe.samples).mean(axis=1)


def answered(store: Store, recipe: Answers) -> Float[np.ndarray, " questions"]:
    """Share of the answers to every question that name anything of the kind at all."""
    spoken = store.language(recipe.model)
    texts = [row["answer"] for row in answers.read(store, recipe)]
    named = np.array([spoken.answers_kind(recipe.family, text) for text in texts])
    return named.reshape(-1, recipe.samples).mean(axis=1)


def bare(store: Store, model: Model, trait: str) -> Probe:
    """The questions of a trait outside the chat template that students are trained in."""
    spoken = store.language(model)
    questions = list(spoken.trait(trait).questions)
    ahead = chat.beginning(spoken.tokenizer)
    asked = spoken.tokenizer(questions, add_special_tokens=False)["input_ids"]
    return question(store, model, trait, [[*ahead, *ids] for ids in asked])


def in_context(store: Store, model: Model, *, rows: Sequence[Row], trait: str, shown: int) -> Probe:
    """Every question of a trait after `shown` of the rows, other ones each time.

    Raises:
        ValueError: the questions differ in length.
    """
    probe = question(store, model, trait)
    if not probe.mask.all():
        raise ValueError("questions of one length only can follow rows in the prompt")
    picked = [rows[i % len(rows)] for i in range(len(probe.questions) * shown)]
    examples = students.encode(store, model, picked)
    # Tokens reach up to the last one with a weight; the rest is padding on the right.
    real = np.flip(np.maximum.accumulate(np.flip(examples.weights > 0, -1), axis=-1), -1)
    context, seen = (array.reshape(len(probe.questions), -1) for array in (examples.tokens, real))
    to_the_left = np.argsort(seen, axis=1, kind="stable")
    context, seen = (np.take_along_axis(a, to_the_left, axis=1) for a in (context, seen))
    return probe._replace(
        questions=np.concatenate([context, probe.questions], axis=1),
        mask=np.concatenate([seen, probe.mask], axis=1),
    )
