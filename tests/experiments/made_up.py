"""Rows that no run made, with an effect of known size, and what an experiment says of them."""

import itertools
import re

import pandas as pd

from experiments.findings import drawing

TRAITS, SEEDS = ("owl", "wolf"), range(16)


def students(rng, effect, noise=0.05, **columns):
    """Rows of an arm: margins of a chain in common, plus the effect on the own trait."""
    return [
        {
            "teacher": teacher,
            "data": data,
            "trait": trait,
            "seed": seed,
            "kept": 0.9,
            "unique": columns.get("rows", 1536),
            "held_out_loss": 4.0,
            "margin": 5 * seed
            + noise * rng.normal()
            + (effect if data == "trait" and teacher == trait else 0),
        }
        | columns
        for teacher, trait, seed in itertools.product(TRAITS, TRAITS, SEEDS)
        for data in ("trait", "control")
    ]


def judged(module, rows, config=None):
    """Quantity -> verdict; every figure is drawn on the way."""
    config, table = config or module.Config(), pd.DataFrame(rows)
    with drawing.style():
        for figure in module.findings(table, config).figures:
            assert "nan" not in figure.found
            drawing.close(figure.draw())
    return {
        re.sub(r" \(1 of.*", "", c.quantity): c.holds for c in module.findings(table, config).claims
    }
