"""How far a chain has come: its stages in order, which are done, and what the others will cost.

A stage's file carries the digest of everything it depends on. So a stage whose settings changed,
or something before it, is found under another name: it is *stale*, and made again.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import plan
from ..plan import Cost, Rates
from ..settings import as_json, describe_difference
from .recipe import MISSING, STALE, Made, Recipe
from .store import Store


class Stage(NamedTuple):
    """One thing that is made.

    Attributes:
        recipe: what.
        state: the name of a `State`.
        cost: of what is still to be done; about, where it depends on data to come.
    """

    recipe: Recipe
    state: str
    cost: Cost


def in_order(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The recipes and all that they are made from, parts first, each once."""
    ordered: dict[Recipe, None] = {}

    def visit(recipe: Recipe) -> None:
        if recipe not in ordered:
            for part in recipe.made_from():
                visit(part)
            ordered[recipe] = None

    for recipe in recipes:
        visit(recipe)
    return list(ordered)


def stages(store: Store, recipes: Iterable[Recipe], rates: Rates | None = None) -> list[Stage]:
    """All stages of a chain with their states; nothing is made, no weights are read.

    Args:
        store: where they are made.
        recipes: the last stages.
        rates: of the machine, for the hours.
    """
    out = []
    for recipe in in_order(recipes):
        state, left = recipe.state(store)
        # What is done, given or read with what follows costs nothing of its own.
        cost = recipe.cost(store, left, rates) if left else Cost()
        out.append(Stage(recipe, state, cost))
    return out


def at(path: Path, store: Store, recipe: Made, **facts: Any) -> str:
    """The state of a stage whose place was chosen by hand; what is stale says why.

    Args:
        path: its folder or file.
        store: knows the settings of completions.
        recipe: what belongs there.
        **facts: further settings of its manifest.
    """
    stored = recipe.recorded(path)
    if stored is None:
        return MISSING
    if differs := describe_difference(stored, as_json(recipe.settings(store) | facts)):
        return f"{STALE} ({differs})"
    return recipe.state_at(store, path).name


FEW = 48  # stages that are listed one by one


def table(listed: Sequence[Stage]) -> str:
    """One line a stage, or of many stages one line a kind and state; and the sum."""
    lines = [f"{'stage':44s} {'state':12s} {'tokens':>8s} {'FLOPs':>8s} {'hours':>7s} {'GB':>7s}"]
    groups: dict[tuple[str, str], list[Cost]] = {}
    for number, (recipe, state, cost) in enumerate(listed):
        chain, kind = getattr(recipe, "chain", 0), type(recipe).__name__
        name = f"{kind} {getattr(recipe, 'name', '')} {chain or ''}"
        key = (kind, state) if len(listed) > FEW else (f"{name[:44]:44s}{number}", state)
        groups.setdefault(key, []).append(cost)
    for (name, state), costs in groups.items():
        shown = name[:44] if len(listed) <= FEW else f"{name} x {len(costs)}"
        lines.append(f"{shown:44s} {state:12s} {_numbers(_total(costs))}".rstrip())
    total = _total([stage.cost for stage in listed])
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
