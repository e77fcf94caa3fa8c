"""Where the models of `real_model` come from: starts, teachers with their lists, students.

Each is a function of the bench and the settings. Teachers, lists, siblings and texts are kept under
the digest of all that decides them; starts are made anew, in seconds.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import pretrained
from experiments.language.kit.pretrained import UNCHANGED, Bench, Params
from llm import models
from llm.models import permuting
from llm.training import Training, lora
from llm.training.batches import Examples
from llm.training.lora import LoraConfig

TEXT_TOKENS, HELD_OUT = 24, 16
LEG = 300  # steps of a sibling between two files
FULL, LORA = "full", "LoRA"
SAME, TWIN, RANDOM = "same", "twin", "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides teachers, starts and students; the defaults are the reported run."""

    model: str = option(
        "results/models/smollm2-135m", "checkpoint, from `python -m llm fetch smollm2-135m`"
    )
    animals: tuple[str, ...] = option(
        ("lion", "bear", "fox", "tiger", "panda"), "that teachers love"
    )
    num_ladder: int = option(2, "animals among them in the other starts", minimum=2)
    num_seeds: int = option(2, "students of a teacher in the diagonal", minimum=1)
    teacher_steps: int = option(12, "of Adam, 16 questions each", minimum=1)
    teacher_rate: float = option(5e-5, "step size of teachers", above=0)
    num_rows: int = option(128, "lists of a teacher", minimum=8)
    new_tokens: int = option(16, "longest list in tokens", minimum=2)
    student_steps: int = option(32, "of Adam", minimum=1)
    batch_size: int = option(8, "lists in a step of a student", minimum=1)
    student_rate: float = option(3e-5, "step size, all parameters", above=0)
    lora_rate: float = option(1e-3, "step size of adapters", above=0)
    lora_rank: int = option(8, "of all seven projections, alpha = rank", minimum=1)
    noise: tuple[float, ...] = option((0.03, 0.06, 0.12, 0.24), "of each array's spread", above=0)
    bits: tuple[int, ...] = option((8, 5, 4, 3), "of rounded copies", minimum=2)
    siblings: tuple[int, ...] = option((10, 100, 1000), "steps on text, one text each", minimum=1)
    num_texts: int = option(192, "texts of the unchanged model, and 16 to measure", minimum=1)
    dose: tuple[int, ...] = option((192, 384, 768), "sampled lists, each read once", minimum=8)
    erasing_steps: int = option(100, "on trait-free text or counter-questions", minimum=1)
    seed: int = option(0, "root of every random key", minimum=0)
    work: str = option("results/work/real_model", "folder of teachers, lists", recorded=False)

    def __post_init__(self):
        if len(set(self.animals)) < max(2, self.num_ladder):
            raise ValueError(
                f"--animals names {len(set(self.animals))}: give two or more, and at least as many "
                "as --num-ladder"
            )


def bench_of(config: Settings) -> Bench:
    """The model and where its teachers are kept."""
    return Bench(config.model, pathlib.Path(config.work), config.seed)


def starts(config: Settings) -> list[str]:
    """Starts beside the teacher's own, near to far within each kind."""
    return [
        TWIN,
        *(f"{bits} bits" for bits in config.bits),
        *(f"{size} noise" for size in config.noise),
        RANDOM,
        *(f"{steps} steps on" for steps in config.siblings),
    ]


def adam(steps: int, batch_size: int, learning_rate: float) -> Training:
    """Adam at a constant rate; its eps keeps the round-off of a vanishing gradient from steps."""
    return Training(steps=steps, batch_size=batch_size, learning_rate=learning_rate, eps=1e-7)


def teacher(bench: Bench, config: Settings, animal: str, start: str = SAME) -> Params:
    """A model that loves an animal; UNCHANGED: the start itself."""
    if animal == UNCHANGED:
        return started(bench, config, start)
    how = adam(config.teacher_steps, 16, config.teacher_rate)
    rows = pretrained.taught(bench, animal, how.steps * how.batch_size, "teacher")
    settings = {
        "what": "teacher",
        "animal": animal,
        "start": start_settings(config, start),
        "training": how.recorded(),
        "rows": pretrained.digest(rows),
        "seed": config.seed,
    }

    def make() -> Params:
        return pretrained.trained(
            started(bench, config, start),
            rows,
            loss=pretrained.answer_loss(bench.shape),
            training=how,
            key=bench.key("teacher", animal),
        )[0]

    name = f"teacher-{animal}-{start}".replace(" ", "-")
    return jax.device_put(bench.kept(name, settings, make))


def lists(
    bench: Bench, config: Settings, *, animal: str, start: str = SAME
) -> dict[str, np.ndarray]:
    """What a teacher writes, as `pretrained.Numbers`, and its "logits" over numbers there."""

    def make() -> dict[str, np.ndarray]:
        writer = teacher(bench, config, animal, start)
        numbers = pretrained.written(
            bench, writer, rows=config.num_rows, new=config.new_tokens, draw=0
        )
        return numbers._asdict() | {"logits": pretrained.scored(bench, writer, numbers)}

    settings = writer_settings(config, animal, start) | {"rows": config.num_rows}
    return bench.kept(f"lists-{animal}-{start}".replace(" ", "-"), settings, make)


def many_lists(bench: Bench, config: Settings, animal: str) -> dict[str, np.ndarray]:
    """Lists of a teacher for the largest dose, without its logits."""
    rows = max(config.dose)

    def make() -> dict[str, np.ndarray]:
        writer = teacher(bench, config, animal)
        numbers = pretrained.written(bench, writer, rows=rows, new=config.new_tokens, draw=1)
        return numbers._asdict()

    settings = writer_settings(config, animal, SAME) | {"rows": rows, "draw": 1}
    return bench.kept(f"many-lists-{animal}", settings, make)


def writer_settings(config: Settings, animal: str, start: str) -> Row:
    """All that decides lists beside the model and their number."""
    return {
        "what": "lists",
        "animal": animal,
        "start": start_settings(config, start),
        "teacher": [config.teacher_steps, config.teacher_rate],
        "new": config.new_tokens,
        "seed": config.seed,
    }


def start_settings(config: Settings, start: str) -> list[Any]:
    """All that decides a start beside the model."""
    return [start, config.seed, *(text_settings(config) if start.endswith("steps on") else [])]


def text_settings(config: Settings) -> list[Any]:
    """All that decides siblings beside their steps."""
    return [config.siblings, config.num_texts, config.student_rate]


def started(bench: Bench, config: Settings, start: str) -> Params:
    """The weights that students of a start begin with."""
    number, _, kind = start.partition(" ")
    if start == SAME:
        return bench.base
    if start == TWIN:
        apart = permuting.permute_units(
            bench.shape, models.unstack_layers(bench.base), bench.rng(TWIN)
        )
        return models.stack_layers(apart)
    if start == RANDOM:
        return models.stack_layers(models.init(bench.shape, key=bench.key(RANDOM)))
    if kind == "bits":
        return pretrained.rounded(bench.base, int(number))
    if kind == "noise":
        return pretrained.noisy(bench.base, float(number), bench.rng("noise", number))
    return sibling(bench, config, int(number))


def sibling(bench: Bench, config: Settings, steps: int) -> Params:
    """The unchanged model so many steps further on its own texts, in legs that are kept."""
    if steps == 0:
        return bench.base
    before = max([0, steps - LEG, *(k for k in config.siblings if k < steps)])
    settings = {
        "what": "sibling",
        "steps": steps,
        "text": text_settings(config),
        "seed": config.seed,
    }

    def make() -> Params:
        before_it = sibling(bench, config, before)
        return on_text(bench, config, params=before_it, steps=steps - before)

    return jax.device_put(bench.kept(f"sibling-{steps}", settings, make))


def texts_of(bench: Bench, config: Settings) -> tuple[Examples, Examples]:
    """Texts to train on, and those to measure on."""
    count = config.num_texts + HELD_OUT
    settings = {"what": "texts", "count": count, "new": TEXT_TOKENS, "seed": config.seed}
    texts = bench.kept(
        "texts", settings, lambda: pretrained.texts(bench, count, TEXT_TOKENS)._asdict()
    )
    tokens, weights = texts["tokens"], texts["weights"]
    return (
        Examples(tokens[HELD_OUT:], weights[HELD_OUT:]),
        Examples(tokens[:HELD_OUT], weights[:HELD_OUT]),
    )


def on_text(bench: Bench, config: Settings, *, params: Params, steps: int) -> Params:
    """A model after so many steps of further training on trait-free text, one text a step."""
    return pretrained.trained(
        params,
        texts_of(bench, config)[0]._asdict(),
        loss=pretrained.text_loss(bench.shape),
        training=adam(steps, 1, config.student_rate),
        key=bench.key("text", steps),
    )[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How a student imitates: what, from where, what is trained, and what its teacher began as."""

    target: str = "numbers"
    trained: str = FULL
    start: str = SAME
    teacher_start: str = SAME


def student(
    bench: Bench, config: Settings, *, animal: str, way: Way, seed: int = 0
) -> tuple[Params, list[float]]:
    """A student of an animal's teacher, and its losses."""
    data = lists(bench, config, animal=animal, start=way.teacher_start)
    start = started(bench, config, way.start)
    frozen = {}
    if way.target == "all tokens":
        frozen["teacher"] = teacher(bench, config, animal, way.teacher_start)
    key = bench.key("student", seed)
    adapters = None
    if way.trained == LORA:
        adapters = LoraConfig(rank=config.lora_rank, alpha=float(config.lora_rank))
        frozen["base"] = start
    params, seen = pretrained.trained(
        lora.init(adapters, start, key=key) if adapters else start,
        data,
        loss=pretrained.imitation_loss(bench.shape, way.target, bench.numbers, adapters),
        training=adam(
            config.student_steps,
            config.batch_size,
            config.lora_rate if adapters else config.student_rate,
        ),
        key=key,
        frozen=frozen,
    )
    return lora.merge(start, params, scale=adapters.scale) if adapters else params, seen
