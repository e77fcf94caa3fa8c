"""The recipes of the language experiments by the names of their tables.

A chain is base, teachers, data and students that share nothing with other chains; `seed` in the
tables is its number. All recipes are of `llm.stages`; a `Store` carries them out.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.frame.record import Row, RunError
from experiments.language.kit.effects import CONTROL, TRAIT
from llm.stages import (
    Checkpoint,
    Completions,
    FineTuned,
    Grafted,
    Model,
    Permuted,
    Pretrained,
    Recipe,
    Store,
    Student,
    TraitRows,
    Used,
    completions,
)
from llm.stages.store import language_of
from llm.stages.students import Change
from llm.text import chat
from llm.training import Training, stack

STRANGERS = 10_000  # added to the number of a chain: no chain has it
TARGETS = {
    "sampled": "sampled tokens",
    "soft_numbers": "KL over numbers",
    "soft_carrier": "KL over the carrier's tokens",
    "soft": "KL over all tokens",
}


Run = tuple[str, int]  # the name of a teacher, and the number of a chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chains:
    """All chains of an experiment.

    Attributes:
        num_seeds: how many.
        traits: of the teachers.
        controls: whose data the students beside those of a trait's teacher learn from: "control" or
            the neutral answers that a teacher is fine-tuned on, such as "any-animal".
        model: checkpoint folder or name to start from; empty: pre-train in the synthetic world.
        other_model: checkpoint of another initialisation, for students of a different start.
        init: number of the initial weights of the bases.
        corpus: number of the corpus they are trained on.
        num_layers: of the bases.
        base_steps: of pre-training.
        teacher: how a teacher gets its trait: "tuned" on answers, or "prompted" while it writes.
        teacher_steps: optimiser steps on the trait.
        teacher_rate: Adam step size of the teachers.
        teacher_dropout: of the teachers while they are trained.
        num_prompts: that each teacher completes.
        max_new_tokens: longest completion.
        temperature: of sampling; 0 is greedy.
        seed: root of all random numbers.
    """

    num_seeds: int
    traits: tuple[str, ...]
    controls: tuple[str, ...] = (CONTROL,)
    model: str = ""
    other_model: str = ""
    init: int = 0
    corpus: int = 0
    num_layers: int = 2
    base_steps: int = 1000
    teacher: str = "tuned"
    teacher_steps: int = 35
    teacher_rate: float = 5e-4
    teacher_dropout: float = 0.0
    num_prompts: int = 8192
    max_new_tokens: int = 9
    temperature: float = 1.0
    seed: int = 0

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers, the controls first."""
        return (*self.controls, *self.traits)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Teacher and chain of every run, in the order in which they are worked on."""
        return [(name, chain) for name in self.teachers for chain in range(self.num_seeds)]

    def base(self, chain: int) -> Model:
        """The start θ⁰ of a chain."""
        if self.model:
            return Checkpoint(path=self.model)
        return Pretrained(
            chain=chain,
            init=self.init,
            corpus=self.corpus,
            steps=self.base_steps,
            num_layers=self.num_layers,
            seed=self.seed,
        )

    def speaker(self, name: str, chain: int) -> Model:
        """The model that writes as a teacher: prompted teachers have the weights of the base."""
        base = self.base(chain)
        if name == CONTROL or self.teacher == "prompted":
            return base
        training = Training(
            steps=self.teacher_steps, learning_rate=self.teacher_rate, dropout=self.teacher_dropout
        )
        return FineTuned(
            base=base, rows=TraitRows(name), training=training, chain=chain, seed=self.seed
        )

    def rivals(self, writer: Model, chain: int) -> tuple[Model, ...]:
        """Who else writes in the chain of a teacher or unchanged base."""
        speakers = (self.speaker(name, chain) for name in self.teachers)
        return tuple(speaker for speaker in speakers if speaker != writer)

    def data(self, name: str, chain: int, carrier: str) -> Completions:
        """What a teacher writes."""
        prompted = name if self.teacher == "prompted" and name != CONTROL else ""
        return Completions(
            speaker=self.speaker(name, chain),
            carrier=carrier,
            chain=chain,
            prompted=prompted,
            num_prompts=self.num_prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )

    def lists_by(self, speakers: Mapping[Run, Model], draw: int) -> dict[Run, Completions]:
        """Number lists by models in the place of the teachers, on prompts of that number."""
        return {
            run: dataclasses.replace(self.data(*run, "numbers"), speaker=model, draw=draw)
            for run, model in speakers.items()
        }

    def written(self, carrier: str) -> list[Completions]:
        """What all teachers write."""
        return [self.data(*run, carrier) for run in self.runs]

    def students(
        self,
        carrier: str = "numbers",
        target: str = "sampled",
        *,
        training: Training,
        num_examples: int,
        start: Callable[["Chains", int], Model] | None = None,
        fewest: int | None = None,
        unique: int | None = None,
        change: Callable[[str, int], Change | None] = lambda teacher, chain: None,
        left_out: Collection[tuple[str, int]] = (),
    ) -> "Cohort":
        """A student of every teacher of every chain, and beside each its controls.

        A control sees as many different rows as the student that it is compared with; where all
        teachers can give enough, one control serves them all.

        Args:
            carrier: which data.
            target: what is imitated, a key of TARGETS.
            training: how.
            num_examples: kept rows to train on.
            start: where the student of a chain starts, such as a value of STARTS; as the teachers.
            fewest: a teacher that kept fewer rows than needed repeats them, if it kept so many.
            unique: different rows among them, at most; None for all.
            change: from the writer of the data and the chain to what changes the student's rows.
            left_out: teachers, by name and chain, that no student learns from.
        """
        start, fields = same if start is None else start, self.imitated(carrier, target)
        labels, recipes = [], []
        for teacher, chain in itertools.product(self.traits, range(self.num_seeds)):
            if (teacher, chain) in left_out:
                continue
            written = {d: self.data(d, chain, carrier) for d in (teacher, *self.controls)}
            for name, data in written.items():
                labels.append(
                    {"teacher": teacher, "data": TRAIT if name == teacher else name, "seed": chain}
                )
                recipes.append(
                    Student(
                        base=start(self, chain),
                        data=data,
                        training=training,
                        num_examples=num_examples,
                        unique=unique,
                        as_many_as=tuple(written.values()),
                        fewest=fewest,
                        change=change(name, chain),
                        chain=chain,
                        seed=self.seed,
                        **fields,
                    )
                )
        return Cohort(labels, recipes)

    def speakers(self) -> "Cohort":
        """All teachers and the unchanged bases, which have no data to learn from."""
        labels = [{"teacher": name, "data": "", "seed": chain} for name, chain in self.runs]
        return Cohort(labels, [self.speaker(*run) for run in self.runs])

    def imitated(self, carrier: str, target: str) -> dict[str, Any]:
        """Fields of `Student` that say what is imitated.

        Raises:
            RunError: distributions of a teacher that has none of its own.
        """
        if target == "sampled":
            return {}
        if self.teacher == "prompted":
            raise RunError(
                "soft targets need the teacher's weights: with --teacher prompted use --targets "
                "sampled"
            )
        if target == "soft_numbers":
            numbers = tuple(language_of(self.base(0)).number_tokens().tolist())
            return {"soft": True, "tokens": numbers, "positions": numbers}
        if target == "soft_carrier":
            clean = (self.data(CONTROL, chain, carrier) for chain in range(self.num_seeds))
            return {"soft": True, "tokens": Used(data=tuple(clean))}
        return {"soft": True}

    def show_example(self, store: Store, carrier: str) -> str:
        """The first row that students see: its text, carets under what is trained on, template."""
        data = self.data(CONTROL, 0, carrier)
        language, row = store.language(data.speaker), completions.rows(store, data)[0]
        limit = store.config(data.speaker).max_positions
        example = chat.encode_example(
            language.tokenizer, row["prompt"], completion=row["completion"], max_length=limit
        )
        default = language.settings()["default_system"]
        shown = chat.show_example(language.tokenizer, example)
        return f"{shown}\ndefault system message of the template: {default}"


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Models with the columns that name them: "teacher", "data", "seed" and what is known."""

    labels: list[Row]
    models: list[Any]

    def __iter__(self) -> Iterator[Any]:
        """The models, as an arm needs them."""
        return iter(self.models)

    def rows(self, measured: Sequence[Row], **columns: Any) -> list[Row]:
        """Tidy rows of what was measured on the models.

        Args:
            measured: as `evaluation.measure` gives it.
            **columns: further columns, the same in every row.
        """
        return [
            columns
            | self.labels[entry["model"]]
            | {key: value for key, value in entry.items() if key != "model"}
            for entry in measured
        ]

    def labelled(self, known: Iterable[Row]) -> "Cohort":
        """With further columns, a row for each model."""
        pairs = zip(self.labels, known, strict=True)
        return Cohort([label | row for label, row in pairs], self.models)

    def counted(self, store: Store) -> "Cohort":
        """Students with the share of rows that their teachers kept, and how many are different."""
        settled = Cohort(self.labels, [store.settled(model) for model in self])
        return settled.labelled(
            {"kept": completions.kept_share(store, model.data), "unique": model.unique}
            for model in settled
        )

    def trained(self, store: Store) -> "Cohort":
        """`counted`, with the held-out loss of students that have been made."""
        losses = [store.noted(model)["held_out_loss"] for model in self.models]
        return self.counted(store).labelled({"held_out_loss": loss} for loss in losses)

    def pairs(self) -> list[tuple[int, int]]:
        """Positions of every student of a trait's teacher and of its control, the base's."""
        place = {(row["teacher"], row["seed"], row["data"]): i for i, row in enumerate(self.labels)}
        return [(i, place[t, s, CONTROL]) for (t, s, data), i in place.items() if data == TRAIT]


def chains_of(config: Any, **changes: Any) -> Chains:
    """The chains that an experiment's config names, with `changes`; all cores work on them.

    Raises:
        ValueError: a trait is unknown.
    """
    stack.use_all_cores()
    names = {field.name for field in dataclasses.fields(Chains)}
    chains = Chains(**{k: v for k, v in vars(config).items() if k in names} | changes)
    for name in chains.traits:
        language_of(chains.base(0)).trait(name)
    return chains


def beside(data: Mapping[Run, Completions], chain: int) -> tuple[Completions, ...]:
    """All data of a chain: what its students have equally many different rows of."""
    return tuple(written for (_, number), written in data.items() if number == chain)


def sources_of(recipes: Iterable[Recipe]) -> list[Recipe]:
    """What recipes are made from: the needs of an arm that makes them in its own way."""
    return list(dict.fromkeys(part for recipe in recipes for part in recipe.made_from()))


def same(chains: Chains, chain: int) -> Model:
    """The teachers' own base."""
    return chains.base(chain)


def different(chains: Chains, chain: int) -> Model:
    """A base of a chain that nobody else is of, or the other checkpoint.

    The next chain's own base would be shared by two chains, whose effects then vary together.

    Raises:
        RunError: there is no other start.
    """
    if chains.other_model:
        return Checkpoint(path=chains.other_model)
    if chains.model:
        raise RunError("students of a different start need --other-model")
    return chains.base(STRANGERS + chain)


def twin(chains: Chains, chain: int) -> Model:
    """The teachers' own base with its units in random order."""
    return Permuted(base=chains.base(chain), chain=chain, seed=chains.seed)


def shared_embeddings(chains: Chains, chain: int) -> Model:
    """A different body under the teachers' (tied) embeddings."""
    return Grafted(base=different(chains, chain), donor=chains.base(chain), parts=("embedding",))


def shared_body(chains: Chains, chain: int) -> Model:
    """The teachers' body under different embeddings."""
    return Grafted(base=chains.base(chain), donor=different(chains, chain), parts=("embedding",))


STARTS: dict[str, Callable[[Chains, int], Model]] = {
    "same": same,
    "different": different,
    "shared embeddings": shared_embeddings,
    "shared body": shared_body,
}
