"""The arms of the microworld's experiments: the columns that name each in its table, and recipes.

What is measured on an arm's students before or while they are trained can so be laid beside the
effects of a finished run.
"""

import functools
import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np

from experiments.frame.record import Row
from experiments.language.kit.chains import CONTROL, Cohort
from experiments.language.kit.question import Bench

Arms = dict[str, tuple[Row, Callable[[], Cohort]]]  # by name


def arms_of_starts(module: ModuleType, bench: Bench) -> Arms:
    """Students by KL over numbers from many starts."""
    return {
        " ".join(map(str, np.atleast_1d(name))): (
            {"start": name}
            if isinstance(name, str)
            else dict(zip(("kind", "dose"), name, strict=True)),
            functools.partial(bench.recipes, target="soft_numbers", start=start),
        )
        for name, start in module.starts(bench.config).items()
    }


def arms_of_bits(module: ModuleType, bench: Bench) -> Arms:
    """Students by sampled tokens of many carriers."""
    config, bench = bench.config, bench.of(max_new_tokens=module.LONGEST)
    found: Arms = {}
    for carrier, heat, rows in itertools.product(config.carriers, config.temperatures, config.rows):
        columns = {"carrier": carrier, "temperature": heat, "rows": rows}
        recipes = functools.partial(module.recipes, bench, carrier, heat, rows)
        found[f"{carrier} at {heat:g}, {rows} rows"] = columns, recipes
    return found


def arms_of_dropout(module: ModuleType, bench: Bench) -> Arms:
    """Plain students, and those with dropout in them or in their teachers."""
    found: Arms = {"plain": ({"group": "plain", "value": 0.0}, bench.recipes)}
    mine, theirs = module.DROPOUTS
    for share in bench.config.dropout:
        columns = {"group": mine, "value": share}
        found[f"dropout {share:g}"] = columns, functools.partial(bench.recipes, dropout=share)
    for share in bench.config.dropout_of_teacher:
        columns = {"group": theirs, "value": share}
        found[f"teacher's dropout {share:g}"] = columns, bench.of(teacher_dropout=share).recipes
    return found


def arms_of_generations(module: ModuleType, bench: Bench) -> Arms:
    """Every generation of students, by every target."""
    config, bench = bench.config, bench.of(controls=(CONTROL, module.NEUTRAL))
    return {
        f"{target}, generation {number}": (
            {"target": target, "generation": number},
            functools.partial(module.cohort, bench, target, number),
        )
        for target, number in itertools.product(config.targets, range(1, config.generations + 1))
    }


OF: dict[str, Callable[[ModuleType, Bench], Arms]] = {
    "which_part": arms_of_starts,
    "matching_dose": arms_of_starts,
    "bits": arms_of_bits,
    "along_training": arms_of_dropout,
    "generations": arms_of_generations,
}
