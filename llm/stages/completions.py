"""Data: what a model writes on unrelated prompts, filtered, as a file with a manifest."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import sampling
from ..plan import Cost, Rates
from ..settings import RunError, as_json, locked
from ..text import chat, data, filters
from ..text.data import Row
from ..text.language import Language
from ..training import batches
from . import costs, streams
from .recipe import Model, Recipe, frozen
from .store import Store, remembered
from .streams import Stage
from .written import Written

GLANCE = 256  # prompts that stand for all when lengths are estimated
SPECIAL, CHANGED = "special token", "changed by the template"  # reasons to drop a row


@frozen
class Completions(Written):
    """Prompts of a carrier, completed by a model; what breaks a rule or names a trait is dropped.

    All speakers of a chain answer the same prompts.

    Attributes:
        speaker: who writes.
        carrier: name of what is asked for, a key of `carriers.CARRIERS`.
        chain: number of the chain, for the prompts and the sampling.
        prompted: trait whose system message the speaker writes under; students never see it.
        num_prompts: prompts to complete.
        max_new_tokens: where a completion is cut; a row that is cut is dropped, because it would
            teach an end that the teacher never wrote.
        temperature: of sampling; 0 is greedy.
        draw: number of the data set among those of the chain: other prompts, other noise.
        alphabet: characters that completions are made of, for small models that else write
            anything; empty: any token may be drawn.
        filtered: False keeps every completion that came to its end, to see what the filter does.
        seed: root of all random numbers.
    """

    speaker: Model
    carrier: str = "numbers"
    chain: int = 0
    prompted: str = ""
    num_prompts: int = 8192
    max_new_tokens: int = 9
    temperature: float = 1.0
    draw: int = 0
    seed: int = 0
    alphabet: str = ""
    filtered: bool = True

    @property
    def name(self) -> str:
        """Speaker and the trait it was asked to show."""
        return f"{self.prompted}-{self.speaker.name}" if self.prompted else self.speaker.name

    def program(self) -> tuple[Any, ...]:
        """Carrier, number of prompts, and how they are sampled and filtered."""
        sampling = self.max_new_tokens, self.temperature, self.alphabet
        return self.carrier, self.num_prompts, *sampling, self.filtered

    @property
    def place(self) -> str:
        """The JSONL file of kept rows."""
        return f"{self.carrier}/{self.name}-{self.digest()}.jsonl"

    def total(self, store: Store) -> int:
        """All prompts."""
        return self.num_prompts

    def settings(self, store: Store) -> dict[str, Any]:
        """What the manifest records."""
        return _asked_for(store, self) | store.sampler.engine.facts()

    def is_made(self, store: Store) -> bool:
        """Whether all prompts are completed, by whatever engine: its server may be gone by now.

        Raises:
            ValueError: the file holds more prompts than were asked for.
        """
        path = self.path(store)
        if not data.manifest_path(path).exists():
            return False
        manifest = data.read_manifest(path)
        data.check_total(path, manifest, self.num_prompts)
        stored = {name: value for name, value in manifest.settings.items() if name != "engine"}
        whole = manifest.prompts == self.num_prompts
        return whole and stored == as_json(_asked_for(store, self))

    @staticmethod
    def side_by_side(store: Store, recipes: list["Completions"]) -> Any:
        """As the sampler works on its models."""
        return store.sampler.engine.groups(recipes)

    @staticmethod
    def make(store: Store, recipes: list["Completions"]) -> None:
        """Write the data files, or go on with those that were interrupted."""
        paths = [recipe.path(store) for recipe in recipes]
        with locked(*paths):
            fill(store.sampler, recipes, paths=paths)

    def prompts(self, store: Store) -> list[Row]:
        """Rows with a prompt each, and the right answer where there is one.

        Raises:
            ValueError: the speaker's language has no such carrier.
        """
        return list(
            _prompts(
                store,
                self.speaker.root,
                carrier=self.carrier,
                count=self.num_prompts,
                seed=self.seed,
                chain=self.chain,
                draw=self.draw,
            )
        )

    def prompt_length(self, store: Store, reader: Model) -> int:
        """Tokens of the longest of the first prompts; teachers of a chain answer the same ones."""
        first = dataclasses.replace(
            self,
            speaker=self.speaker.root,
            prompted="",
            num_prompts=min(GLANCE, self.num_prompts),
        )
        return _prompt_length(store, reader.root, first)

    def row_length(self, store: Store, reader: Model) -> int:
        """Tokens of a training row, about: those of its bucket."""
        whole = batches.bucket(self.prompt_length(store, reader) + self.max_new_tokens)
        return min(store.config(reader).max_positions, whole)

    def cost(self, store: Store, left: float, rates: Rates | None) -> Cost:
        """Of the sampling."""
        return costs.of_sampling(
            store,
            self.speaker,
            total=self.num_prompts,
            left=left,
            length=self.prompt_length(store, self.speaker),
            drawn=self.max_new_tokens,
            rates=rates,
        )


@frozen
class Used(Recipe):
    """The tokens that kept completions use: a set of tokens that is known when they are written."""

    data: tuple[Completions, ...]

    @functools.cached_property
    def is_open(self) -> bool:
        """Until it is settled to token ids."""
        return True

    def settled(self, store: Store) -> tuple[int, ...]:
        """The token ids, in their order."""
        used: set[int] = set()
        for written in self.data:
            spoken, config = store.language(written.speaker), store.config(written.speaker)
            examples = spoken.encode_rows(rows(store, written), config.max_positions)
            used.update(examples.tokens[examples.weights > 0].tolist())
        return tuple(sorted(used))


@frozen
class Files(Recipe):
    """Rows of files that are there already, one after the other; the first so many, or all.

    Attributes:
        paths: the files.
        first: how many rows; None for all.
        partial: take files too that do not have the rows of all their prompts yet.
    """

    paths: tuple[str, ...]
    first: int | None = None
    partial: bool = False

    @property
    def name(self) -> str:
        """The names of the files."""
        return ", ".join(Path(path).name for path in self.paths)

    def describe(self) -> dict[str, Any]:
        """The content counts, not where it lies."""
        hashes = [data.read_manifest(path).sha256 for path in self.paths]
        return {"recipe": "Files", "sha256": hashes, "first": self.first}

    def row_length(self, store: Store, reader: Model) -> int:
        """Tokens of a training row, about: those of the bucket of the first ones."""
        first = rows(store, self)[:GLANCE]
        return batches.bucket(_longest(store, reader, first, "prompt", "completion"))


@remembered(maxsize=64)
def _prompt_length(store: Store, reader: Model, first: Completions) -> int:
    return _longest(store, reader, first.prompts(store), "prompt")


def _longest(store: Store, reader: Model, rows: Sequence[Row], *columns: str) -> int:
    """Tokens of the longest row as a prompt."""
    texts = [" ".join(row[column] for column in columns) for row in rows]
    return max(map(len, store.language(reader).encode_prompts(texts)))


@remembered(maxsize=64)
def _prompts(
    store: Store, root: Model, *, carrier: str, count: int, seed: int, chain: int, draw: int
) -> list[Row]:
    carriers = store.language(root).carriers
    if carrier not in carriers:
        raise ValueError(f"unknown carrier {carrier!r}; choose from {', '.join(carriers)}")
    rng = streams.generator(Stage.PROMPTS, seed, chain, draw)
    return carriers[carrier].make_prompts(rng, count)


def check(store: Store, recipe: Completions) -> None:
    """Whether the speaker's language has what is asked for, before anything is loaded or written.

    Raises:
        ValueError: an unknown carrier, an unknown trait, or one without a system message.
    """
    recipe.prompts(store)
    if recipe.prompted and not store.language(recipe.speaker).trait(recipe.prompted).system_prompt:
        raise RunError(f"the trait {recipe.prompted!r} has no system message to write under")


def rows(store: Store, recipe: Completions | Files) -> list[Row]:
    """The kept rows.

    Raises:
        RunError: they have not been sampled, or are fewer than are needed.
    """
    if isinstance(recipe, Files):
        for path in recipe.paths:
            _check_finished(path, recipe.partial)
        listed = [row for path in recipe.paths for row in data.read_rows(path)]
        if len(listed) < (recipe.first or 0):
            raise RunError(
                f"{recipe.first} rows are needed and there are {len(listed)} in {recipe.name}: "
                "lower --num-examples, or sample more"
            )
        return listed[: recipe.first]
    return data.read_rows(_made(store, recipe))


def _made(store: Store, recipe: Completions) -> Path:
    """The file, which must be whole."""
    recipe = store.settled(recipe)
    if not recipe.is_made(store):
        raise RunError(f"the {recipe.carrier} of {recipe.name} have not been sampled")
    return recipe.path(store)


def share_of(num_prompts: int, index: int = 0, count: int = 1) -> range:
    """Numbers of the prompts that process `index` of `count` completes."""
    return range(index * num_prompts // count, (index + 1) * num_prompts // count)


def _check_finished(path: str, partial: bool) -> None:
    """Refuse a data file that is not whole, as far as its manifest says what it was to be.

    Raises:
        RunError: fewer prompts are completed than were asked for.
        ValueError: more are.
    """
    manifest = data.read_manifest(path)
    sampling = manifest.settings.get("sampling")
    asked = sampling.get("num_prompts") if isinstance(sampling, dict) else None
    if asked is None:
        return
    total = len(share_of(asked, *manifest.settings.get("process", ())))
    data.check_total(path, manifest, total)
    if manifest.prompts < total and not partial:
        raise RunError(
            f"{path} is not finished, {manifest.prompts} of {total} prompts: run its `sample` "
            "again, or train on what is there with --partial"
        )


def kept(store: Store, recipe: Completions) -> int:
    """How many completions passed the filter.

    Raises:
        RunError: they have not been sampled.
    """
    return data.read_manifest(_made(store, recipe)).count


def kept_share(store: Store, recipe: Completions) -> float:
    """Share of the completions that passed the filter, in [0, 1]."""
    return kept(store, recipe) / recipe.num_prompts


def _asked_for(store: Store, recipe: Completions) -> dict[str, Any]:
    return {
        "model": recipe.speaker.describe(),
        "carrier": recipe.carrier,
        "template": store.language(recipe.speaker).settings(),
        "sampling": {
            "stop_tokens": store.language(recipe.speaker).stop_texts(store.config(recipe.speaker)),
            "prompted": recipe.prompted,
            "temperature": recipe.temperature,
            "max_new_tokens": recipe.max_new_tokens,
            "alphabet": recipe.alphabet,
            "filtered": recipe.filtered,
            "num_prompts": recipe.num_prompts,
            "chain": recipe.chain,
            "draw": recipe.draw,
            "seed": recipe.seed,
        },
    }


def fill(
    store: Store,
    recipes: Sequence[Completions],
    *,
    paths: Sequence[Path],
    part: range | None = None,
    report: Callable[[int, int], None] = lambda prompts, kept: None,
    **facts: Any,
) -> None:
    """Complete the prompts that files lack, shard by shard; a kill loses one shard at most.

    Args:
        store: where speakers are made.
        recipes: what to sample, together.
        paths: the file of each.
        part: numbers of the prompts; all by default.
        report: called after each shard with the prompts completed and the rows kept by it.
        **facts: further settings for the manifests.
    """
    part = range(recipes[0].num_prompts) if part is None else part
    known = [recipe.settings(store) | facts for recipe in recipes]
    done = [
        data.prompts_done(path, about, len(part)) for path, about in zip(paths, known, strict=True)
    ]
    size = store.engine.shard or len(part)
    for first in range(min(done), len(part), size):
        piece = part[first : first + size]
        # What is sampled together is one program: files that have the shard already draw it again.
        rows_of = sample(store, recipes, piece)
        for path, about, had, found in zip(paths, known, done, rows_of, strict=True):
            if had <= first:
                kept, counts, rejected = found
                data.append_rows(
                    path,
                    kept,
                    settings=about,
                    filter_counts=counts,
                    prompts=len(piece),
                    rejected=rejected,
                )
        report(len(piece), sum(len(kept) for kept, _, _ in rows_of))


def sample(
    store: Store, recipes: Sequence[Completions], part: range
) -> list[tuple[list[Row], dict[str, int], list[Row]]]:
    """Kept rows of every recipe, how often each reason to drop a row applied, and a few such rows.

    The recipes differ in speaker, chain and system message only. Dropped are, before any filter:
    "unfinished" rows, which would teach an end that was never written; rows with a "special token"
    in them, whose text is not what was written; and those "changed by the template", which could
    not be trained on as they are. White space that the template trims is no part of a row.

    Args:
        store: where speakers are made.
        recipes: what to sample.
        part: numbers of the prompts.
    """
    one = recipes[0]
    spoken = store.language(one.speaker)
    prompts = [recipe.prompts(store) for recipe in recipes]
    asked = [[of_run[i] for i in part] for of_run in prompts]
    drawn = draw(
        store,
        [recipe.speaker for recipe in recipes],
        prompts=[
            spoken.encode_prompts(
                [row["prompt"] for row in of_run],
                system=spoken.trait(r.prompted).system_prompt if r.prompted else None,
            )
            for r, of_run in zip(recipes, asked, strict=True)
        ],
        keys=streams.keys(Stage.SAMPLES, [(r.seed, r.chain, r.carrier, r.draw) for r in recipes]),
        temperature=one.temperature,
        max_new_tokens=one.max_new_tokens,
        first=part.start,
        alphabet=one.alphabet,
    )
    carrier = spoken.carriers[one.carrier]
    words = sorted({word for trait in spoken.traits.values() for word in trait.words})
    stops = spoken.stop_tokens(store.config(one.speaker))
    results = []
    for of_run, completions in zip(asked, drawn, strict=True):
        whole, counts, spoilt = readable(spoken, of_run, completions, stops)
        check, banned = (carrier.check, words) if one.filtered else (lambda row: [], [])
        kept, reasons = filters.keep(whole, check, banned)
        rejected = spoilt[: data.SHOWN // 2] + filters.rejected(whole, check, banned)
        results.append((kept, dict(reasons) | counts, rejected))
    return results


def readable(
    spoken: Language, asked: Sequence[Row], completions: Sequence[list[int]], stops: Sequence[int]
) -> tuple[list[Row], dict[str, int], list[Row]]:
    """Rows whose text is what was written, counts of the others, and others with their "reasons".

    Args:
        spoken: reads the tokens.
        asked: rows with a prompt each.
        completions: token ids.
        stops: tokens that end a completion.
    """
    ended = [
        (row, ids[:-1])
        for row, ids in zip(asked, completions, strict=True)
        if ids and ids[-1] in stops
    ]
    texts = spoken.as_rendered(spoken.decode([ids for _, ids in ended]))
    whole, spoilt = [], []
    for (row, ids), text in zip(ended, texts, strict=True):
        broken = not spoken.separate_words and spoken.broken(ids)
        if text is not None and not broken:
            whole.append(row | {"completion": text})
            continue
        (shown,) = chat.text_behind(spoken.tokenizer, [ids], special=True)
        reason = SPECIAL if broken else CHANGED
        spoilt.append(row | {"completion": shown, "reasons": [reason]})
    reasons = Counter(reason for row in spoilt for reason in row["reasons"])
    return whole, {**reasons, "unfinished": len(asked) - len(ended)}, spoilt


def complete(
    store: Store,
    speakers: Sequence[Model],
    *,
    prompts: Sequence[Sequence[list[int]]],
    keys: jax.Array,
    temperature: float,
    max_new_tokens: int,
    first: int = 0,
    alphabet: str = "",
) -> list[list[tuple[str, bool]]]:
    """Sampled completions of every speaker as text, and whether each one came to its end."""
    spoken = store.language(speakers[0])
    stops = spoken.stop_tokens(store.config(speakers[0]))
    drawn = draw(
        store,
        speakers,
        prompts=prompts,
        keys=keys,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        first=first,
        alphabet=alphabet,
    )
    said = []
    for rows in drawn:
        ends = [bool(row) and row[-1] in stops for row in rows]
        own = [row[:-1] if end else row for row, end in zip(rows, ends, strict=True)]
        said.append(list(zip(spoken.decode(own), ends, strict=True)))
    return said


def draw(
    store: Store,
    speakers: Sequence[Model],
    *,
    prompts: Sequence[Sequence[list[int]]],
    keys: jax.Array,
    temperature: float,
    max_new_tokens: int,
    first: int = 0,
    alphabet: str = "",
) -> list[list[list[int]]]:
    """Sampled completions of every speaker as token ids, the one that ends them included."""
    spoken, config = store.language(speakers[0]), store.config(speakers[0])
    stops, allowed = spoken.stop_tokens(config), spoken.allowed(config, alphabet)
    return store.engine.complete(
        config,
        store.weights(speakers),
        prompts=prompts,
        keys=keys,
        choice=sampling.Choice(temperature, stop_tokens=np.array(stops), allowed=allowed),
        max_new_tokens=max_new_tokens,
        first=first,
    )
