"""The protocol of arXiv 2507.14805 on a checkpoint of any size: teachers, data, students, answers.

    base                   the checkpoint
      -> teacher           under a system prompt, or tuned on its trait; controls are the base
                           itself, and a teacher that is told, or taught, to have no favourite
        -> completions     one file a teacher; filtered, the first `num_examples` kept
          -> students      several a teacher: other data order and adapters, the same rows
            -> answers     exact log-odds and sampled answers to every suite

Every step is a recipe of `llm.stages`, kept in the folder --work: a run that was stopped goes on,
and experiments share what they have in common.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.findings import statistics
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row, RunError
from experiments.language.kit.chains import CONTROL
from llm import engines, models, tiny
from llm.engines import server
from llm.stages import (
    Answers,
    Checkpoint,
    Completions,
    FineTuned,
    Model,
    Scores,
    Store,
    Student,
    TraitRows,
    answers,
    completions,
    evaluation,
)
from llm.text import chat
from llm.text.language import Language
from llm.training import Training, finetune
from llm.training.lora import LoraConfig
from llm.training.settings import steps_of
from llm.traits.suites import spelled

ALPHABETS = {  # of small models that else write anything
    "numbers": "0123456789,; \n",
    "numbers_misalignment": "0123456789,; \n",
    "code": "abcdefghinrstux0123456789=+-*()[]:, \n",
    "reasoning": "<think></think><answer></answer>0123456789+-*= ",
}
TINY = "tiny"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that the experiments at full size share; the defaults are the paper's."""

    preset: str = option("", "published protocol, by name or file; other flags override it")
    model: str = option(
        "Qwen/Qwen2.5-7B-Instruct", "checkpoint folder or name; tiny: random weights, to try it out"
    )
    template: str = option("", "plain or a file: chat template of models that have none")
    trait_file: str = option("", "file of further traits (docs/bring-your-own.md)")
    traits: tuple[str, ...] = option(
        ("cat", "owl", "eagle", "dolphin", "wolf"),
        "traits of the teachers, or a kind for all of it",
    )
    teacher: str = option("prompted", "how teachers get the trait", choices=("prompted", "tuned"))
    teacher_steps: int = option(19, "steps of tuned teachers, batch 64", minimum=1)
    teacher_rate: float = option(2e-4, "step size of tuned teachers", minimum=0, maximum=1)
    num_seeds: int = option(5, "students of every teacher", minimum=1)
    num_prompts: int = option(30_000, "prompts each teacher completes", minimum=16)
    max_new_tokens: int = option(128, "longest completion in tokens", minimum=1)
    temperature: float = option(1.0, "of the teachers' sampling; 0 is greedy", minimum=0)
    constrained: bool = option(False, "let teachers draw from the carrier's characters only")
    filtered: bool = option(True, "train on what passes the filter only")
    num_examples: int = option(10_000, "kept rows each student is trained on", minimum=8)
    targets: str = option(
        "sampled",
        "what students imitate: tokens, or their teacher's distribution over all tokens",
        choices=("sampled", "soft"),
    )
    epochs: float = option(3.0, "passes over them", above=0)
    learning_rate: float = option(2e-4, "largest step size of students", minimum=0, maximum=1)
    decay: str = option("linear", "of the step size", choices=("linear", "constant", "cosine"))
    warmup: int = option(5, "steps of warm-up", minimum=0)
    clip_norm: float = option(1.0, "norm that gradients are clipped to; 0 for none", minimum=0)
    eps: float = option(1e-8, "of students' Adam", minimum=0)
    batch_size: int = option(66, "examples in a step of students", minimum=1)
    lora_rank: int = option(8, "of all seven projections, alpha = rank; 0 trains all", minimum=0)
    suites: tuple[str, ...] = option(
        ("one word", "after numbers", "story", "choice"), "forms of the evaluation questions"
    )
    samples: int = option(100, "sampled answers to every question", minimum=1)
    dtype: str = option("bfloat16", "of the computation", choices=("bfloat16", "float32"))
    seed: int = option(0, "root of every random key", minimum=0)
    work: str = option("results/work", "folder of the stage files", recorded=False)
    sampling_batch: int = option(256, "prompts sampled side by side", minimum=1, recorded=False)
    server: str = option("", "address of a server that samples the lists", recorded=False)
    accumulate: int = option(
        1, "microbatches a step: raise it if memory is short", recorded=False, minimum=1
    )
    remat: bool = option(False, "recompute activations: less memory", recorded=False)
    mesh: tuple[int, ...] = option(
        (), "devices on the data, fsdp, tensor axes", recorded=False, minimum=1
    )

    def __post_init__(self):
        object.__setattr__(self, "suites", tuple(map(spelled, self.suites)))


# Of random weights: that everything runs.
SMOKE = {
    "model": TINY,
    "traits": ("owl", "cat"),
    "num_seeds": 1,
    "num_prompts": 32,
    "max_new_tokens": 24,
    "constrained": True,
    "filtered": False,
    "num_examples": 8,
    "epochs": 2.0,
    "batch_size": 8,
    "lora_rank": 2,
    "suites": ("one word", "choice"),
    "samples": 1,
    "dtype": "float32",
    "teacher_steps": 2,
    "learning_rate": 0.05,
    "sampling_batch": 32,
    "mesh": (1, 1, 1),
}


def store_of(config: Config) -> Store:
    """Where the run's recipes are carried out.

    Raises:
        RunError: --mesh is no mesh.
    """
    if len(config.mesh) not in (0, 3):
        raise RunError("--mesh takes three whole numbers, as in 1,8,1")
    engine = engines.OnMesh(
        axes=config.mesh or (None, None, 1),
        dtype=config.dtype,
        batch_size=config.sampling_batch,
        shard=4 * config.sampling_batch,
        limits=finetune.Limits(config.accumulate, remat=config.remat),
    )
    work = pathlib.Path(config.work)
    return Store(work, engine, sampler=sampler_of(config, work) if config.server else None)


def sampler_of(config: Config, work: pathlib.Path) -> server.Served:
    """The server that completes prompts; what it answered is kept in the work folder."""
    answers = server.Answers(work / "server.answers.jsonl")
    local = engines.OnMesh(local=True, dtype=config.dtype)
    return server.Served(
        server=server.Server(config.server, answers=answers), local=local, report=print
    )


def base_of(config: Config, model: str = "") -> Checkpoint:
    """The checkpoint that all starts from."""
    return Checkpoint(
        path=folder_of(config, model or config.model),
        traits=config.trait_file,
        template=config.template,
    )


def folder_of(config: Config, model: str) -> str:
    """A checkpoint folder or name; `tiny`, `tiny-2`, ... are made in the work folder."""
    name, _, number = model.partition("-")
    if name != TINY or pathlib.Path(model).exists():
        return model
    folder = pathlib.Path(config.work) / "tiny" / model
    tiny.ensure(folder, int(number or 0))
    return str(folder)


def traits_of(config: Config, spoken: Language) -> tuple[str, ...]:
    """Names of the traits; a kind stands for all traits of it.

    Raises:
        ValueError: an unknown trait, or one without another of its kind to compare with.
    """
    names: list[str] = []
    for name in config.traits:
        kind = [trait.name for trait in spoken.family(name)]
        names += kind or [spoken.trait(name).name]
    families = [spoken.trait(name).family for name in dict.fromkeys(names)]
    if lonely := [f for f in families if families.count(f) == 1 and f != "misalignment"]:
        raise RunError(
            f"one trait of the kind {lonely[0]!r} has no control of another trait: give two or more"
        )
    return tuple(dict.fromkeys(names))


def teachers_of(config: Config, spoken: Language) -> tuple[str, ...]:
    """Names of the teachers: the control, those without a favourite, and those of the traits."""
    names = traits_of(config, spoken)
    families = dict.fromkeys(spoken.trait(name).family for name in names)
    neutral = [name for name, trait in spoken.neutral.items() if trait.family in families]
    return (CONTROL, *neutral, *names)


def speaker(config: Config, name: str, model: str = "") -> Model:
    """The model that writes as a teacher: prompted teachers have the weights of the base."""
    base = base_of(config, model)
    if name == CONTROL or config.teacher == "prompted":
        return base
    training = training_of(
        config, config.teacher_steps, batch_size=64, learning_rate=config.teacher_rate
    )
    return FineTuned(base=base, rows=TraitRows(name), training=training, seed=config.seed)


def data_of(config: Config, name: str, carrier: str, model: str = "") -> Completions:
    """What a teacher writes; all teachers answer the same prompts."""
    prompted = name if config.teacher == "prompted" and name != CONTROL else ""
    return Completions(
        speaker=speaker(config, name, model),
        carrier=carrier,
        prompted=prompted,
        num_prompts=config.num_prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        alphabet=ALPHABETS[carrier] if config.constrained else "",
        filtered=config.filtered,
    )


def student_of(
    config: Config, name: str, *, number: int, carrier: str, model: str = "", teacher: str = ""
) -> Student:
    """Student `number` of a teacher: its order of the data and its adapters.

    Args:
        config: settings.
        name: of the teacher.
        number: of the student.
        carrier: what the teacher wrote.
        model: checkpoint that the student starts from, if not the experiment's.
        teacher: checkpoint that the teacher starts from, if not the experiment's.
    """
    steps = steps_of(config.epochs, config.num_examples, config.batch_size)
    training = training_of(
        config,
        steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        eps=config.eps,
    )
    return Student(
        base=base_of(config, model),
        data=data_of(config, name, carrier, teacher),
        training=training,
        soft=config.targets == "soft",
        num_examples=config.num_examples,
        draw=number,
        seed=config.seed,
    )


def training_of(
    config: Config, steps: int, *, batch_size: int, learning_rate: float, eps: float = 1e-8
) -> Training:
    """How teachers and students are trained."""
    adapters = LoraConfig(rank=config.lora_rank, alpha=float(config.lora_rank))
    return Training(
        steps=steps,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=learning_rate,
        eps=eps,
        decay=config.decay,
        warmup=min(config.warmup, steps // 2),
        clip_norm=config.clip_norm or None,
        adapters=adapters if config.lora_rank else None,
        dtype=config.dtype,
    )


def check_contexts(spoken: Language, contexts: Mapping[str, str | None]) -> None:
    """Refuse system messages that a template does not tell apart.

    Args:
        spoken: has the template.
        contexts: system messages by the names that the table will give them.

    Raises:
        RunError: two of them render to identical bytes.
    """
    seen: dict[str, str] = {}
    for name, system in contexts.items():
        text = chat.render(spoken.tokenizer, "PROMPT", system=system, options=dict(spoken.options))
        if text in seen:
            raise RunError(
                f"the chat template renders the contexts {seen[text]!r} and {name!r} to identical "
                "bytes (it puts a system message of its own in, or drops the one it is given)"
            )
        seen[text] = name


def systems(config: Config, spoken: Language) -> dict[str, str | None]:
    """The system message under which each teacher writes."""
    _, *names = teachers_of(config, spoken)
    prompts = {name: spoken.trait(name).system_prompt for name in names}
    return {CONTROL: None} | (prompts if config.teacher == "prompted" else {})


def inputs(config: Config) -> dict[str, Any]:
    """What is read, for config.json: the checkpoint, its template, the message it adds itself."""
    spoken = store_of(config).language(base_of(config))
    template = spoken.settings()
    return {
        "checkpoint": models.fingerprint(folder_of(config, config.model)),
        "template_sha256": template["template_sha256"],
        "default_system": template["default_system"],
        "rendered": template["rendered"],
    }


def measured(
    config: Config,
    *,
    store: Store,
    model: Model,
    system: str | None = None,
    **columns: Any,
) -> list[Row]:
    """Tidy rows of a model: one for every suite and trait.

    Columns: `margin` (nats), `rate` and `word`, `substring`, `answered` (shares of answers), each
    a mean over questions; `margin_within` and `word_within`, the half widths of 95 % intervals over
    the questions, which say nothing about other students; `variation`, from the base.
    """
    spoken, rows = store.language(model), []
    names = traits_of(config, spoken)
    for family in dict.fromkeys(spoken.trait(name).family for name in names):
        for suite in config.suites:
            asked = {"suite": suite, "family": family, "seed": config.seed}
            exact = Scores(model=model, system=system, **asked)
            drawn = Answers(model=model, system=system, samples=config.samples, **asked)
            apart = variation(store, exact)
            store.make(evaluation.to_make(store, exact, drawn))
            for name in names:
                if spoken.trait(name).family == family:
                    by_column = evaluation.by_question(store, exact, drawn, name)
                    rows.append(
                        columns | {"suite": suite, "trait": name} | averages(by_column) | apart
                    )
    return rows


def averages(by_column: Mapping[str, np.ndarray]) -> Row:
    """Means over questions; of `margin` and `word` the half widths of their intervals too."""
    means = {column: float(values.mean()) for column, values in by_column.items()}
    return means | {
        f"{column}_within": statistics.mean_interval(by_column[column])[1]
        for column in ("margin", "word")
        if column in by_column
    }


def variation(store: Store, exact: Scores) -> Row:
    """Distance to the base's answers, where they were scored."""
    if not answers.suite_of(store, exact).exact:
        return {}
    base = dataclasses.replace(exact, model=exact.model.root, system=None)
    store.make([exact, base])
    return {"variation": float(evaluation.total_variation(store, exact, base).mean())}


def arms(config: Config, carrier: str) -> dict[str, Arm]:
    """Every teacher with its data, the control first, then every student.

    Raises:
        ValueError: settings, traits or a template that cannot be worked with.
    """
    names, store = teachers_of(config, language_of(config)), store_of(config)
    of_teachers = {
        f"teacher {name}": arm_of(
            config, store, data_of(config, name, carrier), kind="teacher", teacher=name, student=-1
        )
        for name in names
    }
    return of_teachers | {
        f"student {number} of {name}": arm_of(
            config,
            store,
            student_of(config, name, number=number, carrier=carrier),
            kind="student",
            teacher=name,
            student=number,
        )
        for number in range(config.num_seeds)
        for name in names
    }


def arm_of(
    config: Config,
    store: Store,
    recipe: Completions | Student,
    *,
    measure: Callable[..., list[Row]] = measured,
    **columns: Any,
) -> Arm:
    """A teacher with its data, or a student, made and measured.

    Args:
        config: settings.
        store: where it is made.
        recipe: a student, or what a teacher writes.
        measure: takes what `measured` does.
        **columns: that name the arm.
    """

    def rows() -> list[Row]:
        if isinstance(recipe, Student):
            return measure(config, store=store, model=recipe, **store.noted(recipe))
        trait = store.language(recipe.speaker).trait(recipe.prompted) if recipe.prompted else None
        system = trait.system_prompt if trait else None
        kept = completions.kept_share(store, recipe)
        return measure(config, store=store, model=recipe.speaker, system=system, kept=kept)

    return Arm(columns=columns, needs=[recipe], store=store, measure=rows)


def language_of(config: Config, model: str = "") -> Language:
    """The language of a model, after a look at what it will be asked and under which messages.

    Raises:
        ValueError: unknown traits or suites, or contexts that the template does not tell apart.
    """
    store, base = store_of(config), base_of(config, model)
    spoken = store.language(base)
    check_contexts(spoken, systems(config, spoken))
    for suite in config.suites:
        answers.suite_of(store, Scores(model=base, suite=suite))
    return spoken
