"""How far a chain has come: its stages in order, which are done, and what the others will cost.

A stage's file carries the digest of everything it depends on. So a stage whose settings changed,
or something before it, is found under another name: it is *stale*, and made again.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import batches, data, plan
from ..plan import Cost, Rates
from ..settings import as_json, describe_difference
from . import answers, completions
from .answers import Answers, Asked
from .completions import Completions
from .recipe import Model, Recipe
from .store import RECORD, Store, remembered
from .students import Student

GLANCE = 256  # prompts that stand for all when lengths are estimated
DONE, STALE, MISSING, GIVEN, IN_MEMORY = "done", "stale", "missing", "given", "not kept"


class Stage(NamedTuple):
    """One thing that is made.

    Attributes:
        recipe: what.
        state: DONE, STALE, MISSING, GIVEN, IN_MEMORY, or how many of how many prompts there are.
        cost: of what is still to be done; about, where it depends on data to come.
    """

    recipe: Recipe
    state: str
    cost: Cost


def in_order(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The recipes and all that they are made from, parts first, each once."""
    found: dict[Recipe, None] = {}

    def visit(recipe: Recipe) -> None:
        if recipe not in found:
            for part in recipe.made_from():
                visit(part)
            found[recipe] = None

    for recipe in recipes:
        visit(recipe)
    return list(found)


def stages(store: Store, recipes: Iterable[Recipe], rates: Rates | None = None) -> list[Stage]:
    """All stages of a chain with their states; nothing is made, no weights are read.

    Args:
        store: where they are made.
        recipes: the last stages.
        rates: of the machine, for the hours.
    """
    out = []
    for recipe in in_order(recipes):
        found, share = state(store, recipe)
        # What is done, given or read with what follows costs nothing of its own.
        cost = cost_of(store, recipe, share, rates) if share and found != GIVEN else Cost()
        out.append(Stage(recipe, found, cost))
    return out


def state(store: Store, recipe: Recipe) -> tuple[str, float]:
    """The state of a stage, and the share of it that is still to be done."""
    if recipe.is_open:
        return MISSING, 1.0
    if not hasattr(recipe, "training") and not isinstance(recipe, (Completions, Asked)):
        made = isinstance(recipe, Model) and recipe.stored
        if not made:
            return GIVEN, 0.0
    path = path_of(store, recipe)
    if path is None:
        return IN_MEMORY, 1.0
    if isinstance(recipe, Model):
        return (DONE, 0.0) if path.exists() else (_unmade(path), 1.0)
    if not data.manifest_path(path).exists():
        return _unmade(path), 1.0
    total, done = units(store, recipe), data.read_manifest(path).prompts
    return (DONE, 0.0) if done == total else (f"{done} of {total}", max(1 - done / total, 0.0))


def path_of(store: Store, recipe: Any) -> Path | None:
    """The folder or file of a stage; None if it is not kept."""
    if store.work is None:
        return None
    if isinstance(recipe, Model):
        return store.folder(recipe)
    return (completions if isinstance(recipe, Completions) else answers).path_of(store, recipe)


def _unmade(path: Path) -> str:
    """Whether the same thing is there with another digest."""
    stem = path.name.removesuffix(path.suffix if path.suffix in (".jsonl", ".csv") else "")
    name = stem.rpartition("-")[0]
    return STALE if any(path.parent.glob(f"{name}-*")) else MISSING


def at(path: Path, store: Store, recipe: Any, **facts: Any) -> str:
    """The state of a stage whose place was chosen by hand; what is stale says why.

    Args:
        path: its folder or file.
        store: knows the settings of completions.
        recipe: what belongs there.
        **facts: further settings of its manifest.
    """
    if isinstance(recipe, Model):
        if not path.exists():
            return MISSING
        stored, given = json.loads((path / RECORD).read_text())["recipe"], recipe.describe()
    else:
        if not data.manifest_path(path).exists():
            return MISSING
        stored = data.read_manifest(path).settings
        given = completions.settings(store, recipe) | facts
    if differs := describe_difference(stored, as_json(given)):
        return f"{STALE} ({differs})"
    if isinstance(recipe, Model):
        return DONE
    total, done = units(store, recipe), data.read_manifest(path).prompts
    return DONE if done == total else f"{done} of {total}"


def units(store: Store, recipe: Any) -> int:
    """Prompts that a file of completions or answers goes through."""
    if isinstance(recipe, Completions):
        return recipe.num_prompts
    questions = len(answers.questions(store, recipe))
    return questions * recipe.samples if isinstance(recipe, Answers) else questions


def cost_of(store: Store, recipe: Any, share: float, rates: Rates | None) -> Cost:
    """What a stage costs, or the share of it that is left."""
    if hasattr(recipe, "training"):
        return _training(store, recipe, rates)
    if isinstance(recipe, (Completions, Asked)):
        return _sampling(store, recipe, share, rates)
    return Cost()


def _training(store: Store, recipe: Any, rates: Rates | None) -> Cost:
    config, how, length = store.config(recipe), recipe.training, _row_length(store, recipe)
    tokens = float(how.steps * how.batch_size * length)
    flops = tokens * plan.flops_per_token(config, how.adapters)
    limits = getattr(store.engine, "limits", None)
    memory = plan.training(config, how, length=length, limits=limits)
    return Cost(tokens, flops, rates and flops / rates.flops, memory)


def _row_length(store: Store, recipe: Any) -> int:
    """Tokens of a training row, about: those of its bucket."""
    if not isinstance(recipe, Student):
        return recipe.examples(store).tokens.shape[1]
    source = recipe.data
    if not isinstance(source, Completions):
        rows = completions.rows(store, source)[:GLANCE]
        return batches.bucket(_longest(store, recipe, rows, "prompt", "completion"))
    prompts = _prompt_length(store, recipe, source)
    limit = store.config(recipe).max_positions
    return min(limit, batches.bucket(prompts + source.max_new_tokens))


def _prompt_length(store: Store, reader: Model, source: Completions) -> int:
    """Tokens of the longest of the first prompts; teachers of a chain answer the same ones."""
    count = min(GLANCE, source.num_prompts)
    asked = dataclasses.replace(source, speaker=source.speaker.root, prompted="", num_prompts=count)
    return _length_of(store, reader.root, asked)


@remembered(maxsize=64)
def _length_of(store: Store, reader: Model, asked: Completions) -> int:
    return _longest(store, reader, asked.prompts(store), "prompt")


def _longest(store: Store, model: Model, rows: Sequence[data.Row], *columns: str) -> int:
    texts = [" ".join(row[column] for column in columns) for row in rows]
    return max(map(len, store.language(model).encode_prompts(texts)))


def _sampling(store: Store, recipe: Any, share: float, rates: Rates | None) -> Cost:
    if isinstance(recipe, Completions):
        speaker, new = recipe.speaker, recipe.max_new_tokens
        length = _prompt_length(store, speaker, recipe)
    else:
        speaker = recipe.model
        new = answers.suite_of(store, recipe).max_new_tokens * isinstance(recipe, Answers)
        length = max(map(len, answers.prompts(store, recipe)))
    config, count = store.config(speaker), share * units(store, recipe)
    rows = min(getattr(store.engine, "batch_size", 64), units(store, recipe))
    read, drawn = count * length, float(count * new)
    flops = 2.0 * (read + drawn) * plan.matmul_weights(config)
    seconds = rates and plan.sampling_seconds(
        config, rates, prompts=read, drawn=drawn, rows=rows, length=length + new / 2
    )
    memory = plan.sampling(config, rows, slots=length + new, prompt=length)
    return Cost(read + drawn, flops, seconds, memory)


FEW = 48  # stages that are listed one by one


def table(found: Sequence[Stage]) -> str:
    """One line a stage, or of many stages one line a kind and state; and the sum."""
    lines = [f"{'stage':44s} {'state':12s} {'tokens':>8s} {'FLOPs':>8s} {'hours':>7s} {'GB':>7s}"]
    groups: dict[tuple[str, str], list[Cost]] = {}
    for number, (recipe, state, cost) in enumerate(found):
        chain, kind = getattr(recipe, "chain", 0), type(recipe).__name__
        name = f"{kind} {getattr(recipe, 'name', '')} {chain or ''}"
        key = (kind, state) if len(found) > FEW else (f"{name[:44]:44s}{number}", state)
        groups.setdefault(key, []).append(cost)
    for (name, state), costs in groups.items():
        shown = name[:44] if len(found) <= FEW else f"{name} x {len(costs)}"
        lines.append(f"{shown:44s} {state:12s} {_numbers(_total(costs))}".rstrip())
    total = _total([stage.cost for stage in found])
    lines.append(f"{'to be done':44s} {'':12s} {_numbers(total)}".rstrip())
    if total.memory is not None:
        lines.append(f"largest at a time: {plan.describe(total.memory)}")
    return "\n".join(lines)


def _total(costs: Sequence[Cost]) -> Cost:
    """What several stages cost, one after the other."""
    timed = [cost.seconds for cost in costs if cost.seconds is not None]
    return Cost(
        sum(cost.tokens for cost in costs),
        sum(cost.flops for cost in costs),
        sum(timed) if timed else None,
        max((c.memory for c in costs if c.memory), key=lambda m: m.total, default=None),
    )


def _numbers(cost: Cost) -> str:
    if not cost.tokens:
        return ""
    hours = "" if cost.seconds is None else f"{cost.seconds / 3600:.2f}"
    size = "" if cost.memory is None else f"{cost.memory.total / 1e9:.2f}"
    return f"{cost.tokens:8.2g} {cost.flops:8.2g} {hours:>7s} {size:>7s}"
