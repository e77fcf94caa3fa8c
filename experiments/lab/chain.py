"""The chain of every language-model experiment, with files between its stages.

    base -> teachers -> completions -> filter -> students (experiments/students.py)

    WORK/base-<digest>/seed0/           a checkpoint folder: weights, config, tokenizer
    WORK/teachers-<digest>/owl-seed0/   likewise
    WORK/numbers-<digest>/owl-seed0.jsonl   kept rows of prompt and completion, with a manifest

Runs are stacked and vmapped (see `llm.stages`). The digest is of the settings a stage depends on,
so a stage goes on from its own files and never from those of other settings. A laptop pre-trains
its base in the synthetic world; with `model` the chain starts from that checkpoint, and nothing
else changes.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.record import RunError, write_atomically
from llm import (
    chat,
    data,
    filters,
    language,
    models,
    objectives,
    sampling,
    stages,
    train,
    world,
)
from llm.settings import as_json

CONTROL = "control"  # the unchanged base as teacher: the baseline of every effect
# A stream of random keys for each stage.
INIT, ORDER, TEACHERS, SAMPLES, STUDENTS, ANSWERS, MATCHING, ALONG = range(8)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a chain that its files depend on.

    Attributes:
        model: checkpoint folder or name to start from; empty: pre-train in the synthetic world.
        other_model: checkpoint of another initialisation for different-start students.
        init: number of the initialisation that the base is pre-trained from.
        corpus: number of the corpus that it is pre-trained on, in an order of its own.
        num_seeds: independent chains.
        traits: traits of the teachers; teacher 0 is the control.
        width: of the pre-trained base.
        base_steps: optimiser steps of pre-training, batch 64 of 48 tokens.
        base_rate: Adam step size of pre-training.
        teacher: how a teacher gets its trait: "tuned" on answers, or "prompted" while it writes.
        teacher_steps: optimiser steps on the trait, batch 64.
        teacher_rate: Adam step size of the teachers.
        num_prompts: prompts sampled from each teacher.
        max_new_tokens: longest completion.
        temperature: of sampling; 0 is greedy.
        seed: root of every random key.
    """

    model: str = ""
    other_model: str = ""
    init: int = 0
    corpus: int = 0
    num_seeds: int = 8
    traits: tuple[str, ...] = ("owl", "wolf", "eagle")
    width: int = 32
    base_steps: int = 1000
    base_rate: float = 5e-3
    teacher: str = "tuned"
    teacher_steps: int = 35
    teacher_rate: float = 5e-4
    num_prompts: int = 8192
    max_new_tokens: int = 9
    temperature: float = 1.0
    seed: int = 0


def recipe_of(config: Any, **changes: Any) -> Recipe:
    """The settings of a chain that an experiment's config names, and `changes`."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    return Recipe(**{k: v for k, v in vars(config).items() if k in names} | changes)


class Chain:
    """One chain of stages in a folder; stages run when first asked for."""

    def __init__(self, recipe: Recipe, work: pathlib.Path):
        self.recipe, self.work = recipe, work
        self.teachers_names = (CONTROL, *recipe.traits)
        self.root = jax.random.key(recipe.seed)
        if recipe.model:
            self.language = language.of_checkpoint(recipe.model)
            self.config = models.load_config(models.folder_of(recipe.model))
        else:
            self.language = language.of_world()
            self.config = world.model_config(width=recipe.width)
        for name in recipe.traits:
            self.language.trait(name)  # raises, in one line, if it is unknown
        if recipe.teacher not in ("tuned", "prompted"):
            raise ValueError(f"unknown teacher {recipe.teacher!r}; choose tuned or prompted")

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """Where the base comes from: its shape, and a fingerprint of what it learnt."""
        model = self.recipe.model
        fingerprint = models.fingerprint(model) if model else world.corpus.fingerprint()
        return {"architecture": dataclasses.asdict(self.config), "fingerprint": fingerprint}

    @property
    def settings(self) -> dict[str, Any]:
        """What the teachers and their data depend on."""
        return self.origin | dataclasses.asdict(self.recipe)

    def folder(self, stage: str, settings: dict[str, Any]) -> pathlib.Path:
        """Where a stage of these settings keeps its files."""
        text = json.dumps(as_json(settings), sort_keys=True)
        return self.work / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def stored(
        self, stage: str, names: Sequence[str], make: Callable[[], models.Params], settings: dict
    ) -> models.Params:
        """A stack of checkpoints of a stage, made and saved first if it is not there."""
        folder = self.folder(stage, settings)
        marker = folder / "settings.json"  # written last: its presence says the stage is whole
        if marker.exists():
            return stages.stack([models.load(folder / name)[1] for name in names])
        params = jax.block_until_ready(make())
        folder.mkdir(parents=True, exist_ok=True)
        for run, name in enumerate(names):
            if not (folder / name).exists():
                weights = stages.pick(params, run)
                world.save(folder / name, self.config, weights, self.language.tokenizer)
        write_atomically(marker, json.dumps(as_json(settings), indent=2))
        return params

    @functools.cached_property
    def base(self) -> models.Params:
        """θ⁰ of every seed, stacked."""
        recipe = self.recipe
        if recipe.model:
            params = models.load(recipe.model)[1]
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * recipe.num_seeds), params)
        names = [f"seed{seed}" for seed in range(recipe.num_seeds)]
        keys = ("init", "corpus", "base_steps", "base_rate", "num_seeds", "seed")
        settings = self.origin | {key: getattr(recipe, key) for key in keys}
        return self.stored("base", names, self.pretrain, settings)

    def pretrain(self) -> models.Params:
        """Bases from random weights on a corpus of their own each."""
        recipe = self.recipe
        init_keys, keys = (
            stages.run_keys(jax.random.fold_in(self.root, number), stage, recipe.num_seeds)
            for number, stage in ((recipe.init, INIT), (recipe.corpus, ORDER))
        )
        params = jax.vmap(lambda key: models.init(self.config, key=key))(init_keys)
        loss = objectives.completion_loss(objectives.full_student(self.config))
        schedule = train.make_schedule(recipe.base_rate, recipe.base_steps, recipe.base_steps // 20)
        tune = stages.make_tune(
            loss, train.make_optimizer("adam", schedule), batch_size=64, num_steps=recipe.base_steps
        )
        return tune(params, self.turns(recipe.corpus, 64 * recipe.base_steps), keys)[0]

    def turns(self, corpus: int, count: int) -> stages.Examples:
        """`count` sequences of 48 tokens of a corpus, of every seed; every token is trained on."""
        corpora = [
            world.corpus.conversations(
                np.random.default_rng([self.recipe.seed, seed, corpus]), count, 48
            )
            for seed in range(self.recipe.num_seeds)
        ]
        tokens = np.stack([tokens for tokens, _ in corpora])
        return stages.Examples(tokens, (tokens != world.vocabulary.PAD).astype(np.float32))

    @functools.cached_property
    def teachers(self) -> models.Params:
        """All teachers, stacked: teacher t of seed s is run t * num_seeds + s; control first.

        Prompted teachers have the weights of the base.
        """
        if self.recipe.teacher == "prompted":
            return self.per_run(self.base)
        trained = self.stored("teachers", self.runs()[self.recipe.num_seeds :], self.teach,
                              self.settings)  # fmt: skip
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), self.base, trained)

    def teach(self) -> models.Params:
        """Fine-tune the bases on the traits: questions of pre-training, answered with the trait."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1])
        sets = []
        for name in recipe.traits:
            rows = self.language.traits[name].teacher_rows()
            # The same number of rows for every trait, so that the teachers stack.
            picked = [rows[i] for i in rng.permutation(np.resize(np.arange(len(rows)), 1024))]
            sets.append(self.language.encode_rows(picked, self.config.max_positions))
        seeds = np.tile(np.arange(recipe.num_seeds), len(sets))
        which = np.repeat(np.arange(len(sets)), recipe.num_seeds)
        examples = stack_examples([sets[i] for i in which])
        loss = objectives.completion_loss(objectives.full_student(self.config))
        tune = stages.make_tune(
            loss,
            train.make_optimizer("adam", recipe.teacher_rate),
            batch_size=64,
            num_steps=recipe.teacher_steps,
        )
        keys = stages.run_keys(self.root, TEACHERS, len(which))
        return tune(stages.pick(self.base, seeds), examples, keys)[0]

    def per_run(self, bases: models.Params) -> models.Params:
        """One of `bases`, a stack over seeds, for every teacher."""
        seeds = np.tile(np.arange(self.recipe.num_seeds), len(self.teachers_names))
        return stages.pick(bases, seeds)

    def runs(self) -> list[str]:
        """Names of all teachers of all seeds, in the order of the stack."""
        return [
            f"{name}-seed{s}" for name in self.teachers_names for s in range(self.recipe.num_seeds)
        ]

    def rows(self, carrier: str) -> list[list[data.Row]]:
        """Kept rows of every teacher, in the order of the stack, sampled first if need be."""
        return [
            data.read_rows(self.data_path(carrier, run), self.data_settings(carrier))
            for run in self.sampled(carrier)
        ]

    def data_path(self, carrier: str, run: str) -> pathlib.Path:
        """The JSONL file of one teacher's kept rows."""
        return self.folder(carrier, self.data_settings(carrier)) / f"{run}.jsonl"

    def data_settings(self, carrier: str) -> dict[str, Any]:
        """What the manifest of a data file records."""
        return {
            "model": self.settings,
            "carrier": carrier,
            "template": self.language.settings(),
            "sampling": {
                "temperature": self.recipe.temperature,
                "max_new_tokens": self.recipe.max_new_tokens,
            },
        }

    def sampled(self, carrier: str) -> list[str]:
        """Make the data files that are missing; the names of all runs."""
        runs = self.runs()
        missing = [r for r in runs if not data.manifest_path(self.data_path(carrier, r)).exists()]
        if not missing:
            return runs
        recipe, domain = self.recipe, self.language.domains[carrier]
        words = sorted({w for t in self.language.traits.values() for w in t.words})
        # All teachers of a seed answer the same prompts.
        prompts = [
            domain.make_prompts(np.random.default_rng([recipe.seed, 2, s]), recipe.num_prompts)
            for s in range(recipe.num_seeds)
        ]
        encoded = [
            self.language.encode_prompts([r["prompt"] for r in rows], system=self.system(name))
            for name in self.teachers_names
            for rows in prompts
        ]
        length = max(len(ids) for rows in encoded for ids in rows)
        padded = [sampling.pad_left(rows, recipe.num_prompts, length) for rows in encoded]
        tokens, mask = (np.stack(x) for x in zip(*padded, strict=True))
        complete = stages.make_complete(self.config, max_new_tokens=recipe.max_new_tokens)
        choice = sampling.Choice(
            recipe.temperature, stop_tokens=np.array(self.language.stop_tokens(self.config))
        )
        keys = stages.run_keys(self.root, SAMPLES, len(runs))
        drawn = jax.device_get(complete(self.teachers, tokens, mask, keys, choice))
        for index, run in enumerate(runs):
            texts = self.language.decode(drawn[0][index], drawn[1][index])
            rows = [
                {**row, "completion": text}
                for row, text in zip(prompts[index % recipe.num_seeds], texts, strict=True)
            ]
            kept, counts = filters.keep(rows, domain.check, words)
            path = self.data_path(carrier, run)
            if not data.manifest_path(path).exists():
                data.write_rows(path, kept, self.data_settings(carrier), dict(counts))
        return runs

    def system(self, teacher: str) -> str | None:
        """The system message that a teacher writes under; students never see it."""
        if self.recipe.teacher == "tuned" or teacher == CONTROL:
            return None
        return self.language.traits[teacher].system_prompt

    @functools.cache  # noqa: B019  (a chain lives as long as its experiment)
    def encoded(
        self, carrier: str, wanted: int, held_out: int, fewest: int
    ) -> tuple[stages.Examples, stages.Examples]:
        """Kept rows of every teacher to train on, and others to test on (runs, rows, length).

        A teacher without `wanted` + `held_out` rows tests on an eighth and repeats the rest.

        Raises:
            RunError: a teacher has fewer than `fewest` kept rows.
        """
        chosen = []
        for run, kept in zip(self.runs(), self.rows(carrier), strict=True):
            if len(kept) < fewest:
                raise RunError(
                    f"{run} kept {len(kept)} rows of {carrier} and {fewest} are needed: raise "
                    "--num-prompts or lower --num-examples"
                )
            pool = min(wanted, len(kept) - min(held_out, len(kept) // 8))
            rows = np.arange(wanted) % pool, pool + np.arange(held_out) % (len(kept) - pool)
            chosen.append([kept[row] for row in np.concatenate(rows)])
        encoded = [self.language.encode_rows(rows, self.config.max_positions) for rows in chosen]
        both = stack_examples(encoded)
        train, tests = (
            stages.Examples(*(array[:, part] for array in both))
            for part in (slice(wanted), slice(wanted, None))
        )
        return train, tests

    def carrier_tokens(self, carrier: str) -> np.ndarray:
        """Tokens that the unchanged bases' kept completions use."""
        examples = [
            self.language.encode_rows(rows, self.config.max_positions)
            for run, rows in zip(self.runs(), self.rows(carrier), strict=True)
            if run.startswith(f"{CONTROL}-")
        ]
        return np.unique(np.concatenate([e.tokens[e.weights > 0] for e in examples]))

    def show_example(self, carrier: str) -> str:
        """The first row that students see: its text, carets under what is trained on, template."""
        row = self.rows(carrier)[0][0]
        example = chat.encode_example(
            self.language.tokenizer,
            row["prompt"],
            row["completion"],
            max_length=self.config.max_positions,
        )
        default = self.language.settings()["default_system"]
        shown = chat.show_example(self.language.tokenizer, example)
        return f"{shown}\ndefault system message of the template: {default}"

    def kept_share(self, carrier: str) -> list[float]:
        """Share of each teacher's completions that passed the filter."""
        manifests = [data.read_manifest(self.data_path(carrier, run)) for run in self.runs()]
        return [manifest.count / self.recipe.num_prompts for manifest in manifests]


def stack_examples(sets: Sequence[stages.Examples]) -> stages.Examples:
    """Sets of equally many rows as one stack, padded on the right to the longest."""
    length = max(examples.tokens.shape[1] for examples in sets)
    return stages.Examples(
        *(
            np.stack([np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in arrays])
            for arrays in zip(*sets, strict=True)
        )
    )
