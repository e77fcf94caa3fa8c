"""One stage of a chain for a model of any size, on all devices of all hosts.

    python -m llm fetch smollm2-135m --out BASE                           # a model, or bring one
    python -m llm finetune --model BASE --trait owl --out owl             # a teacher, as adapters
    python -m llm sample --model BASE --adapter owl --out numbers.jsonl
    python -m llm sample --model BASE --prompted owl --out numbers.jsonl  # or: a prompted teacher
    python -m llm finetune --model BASE --data numbers.jsonl --out student
    python -m llm evaluate --model BASE --adapter student --traits owl,cat

`--dry-run` shows what is done, stale or missing, what the rest costs and whether it fits; no
weights are read. Both `sample` and `evaluate` take `--server URL`: a server of the same model
answers (`llm.served`).

BASE is a checkpoint folder or name, or a GGUF file. Several hosts run the same line (see
`llm.distributed`): fine-tuning is spread over the mesh, sampling over hosts by prompts, each
writing a file of its own; the first evaluates.
The stages are those of `llm.stages`; this file only reads flags.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from . import (
    carriers,
    chat,
    data,
    distributed,
    engines,
    fetch,
    finetune,
    lora,
    models,
    plan,
    served,
)
from .stages import (
    Adapted,
    Answers,
    Checkpoint,
    Completions,
    Files,
    Model,
    Scores,
    Student,
    Tuned,
    Workshop,
    completions,
    evaluation,
    progress,
    students,
)
from .training import Training, steps_of


def build_parser() -> argparse.ArgumentParser:
    """The three stages and their flags, and what fetches a model for them."""
    parser = argparse.ArgumentParser(prog="python -m llm", description="one stage of a chain")
    stage = parser.add_subparsers(dest="stage", required=True)
    tune = stage.add_parser("finetune", help="train adapters on rows, or a teacher on its trait")
    draw = stage.add_parser("sample", help="let a teacher write on unrelated prompts; filter")
    judge = stage.add_parser("evaluate", help="log-odds and sampled rates of traits")
    take = stage.add_parser("fetch", help="published weights, with their licence, into a folder")
    take.add_argument("name", choices=tuple(fetch.SOURCES))
    take.add_argument("--out", type=Path, required=True, help="new folder, for --model")
    take.add_argument(
        "--accept-gemma-terms", action="store_true", help="say that you accept the terms of Gemma"
    )
    for command in (tune, draw, judge):
        command.add_argument("--model", required=True, help="checkpoint folder, name or GGUF file")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--join", action="store_true", help="the other hosts of the job")
        command.add_argument(
            "--mesh", type=_axes, default=(None, None, 1), metavar="D,F,T",
            help="devices on the data, fsdp and tensor axes (default: fsdp within a host)",
        )  # fmt: skip
    for command in (tune, draw):
        command.add_argument(
            "--dry-run", "--plan", action="store_true", help="show state, cost, memory; and end"
        )
        command.add_argument("--rates", metavar="X", help="FLOPs,bytes a second, or a benchmark")
    for command in (draw, judge):
        command.add_argument("--adapter", help="adapter of a tuned teacher or student")
        command.add_argument("--server", metavar="URL", help="let a server answer (llm.served)")
        command.add_argument("--served-model", default="", metavar="NAME", help="its name there")
        command.add_argument("--concurrency", type=int, default=32, help="requests at a time")
        command.add_argument("--rate-limit", type=float, help="requests a second (default none)")
    source = tune.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", dest="rows", nargs="+", help="JSONL of `sample`")
    source.add_argument("--trait", help="make a teacher of this trait")
    tune.add_argument("--out", type=Path, required=True, help="new folder")
    tune.add_argument("--num-examples", type=int, help="rows trained on (default all)")
    tune.add_argument("--rank", type=int, default=8, help="of the adapters; 0 trains everything")
    tune.add_argument("--learning-rate", type=float, default=2e-4)
    tune.add_argument("--epochs", type=float, default=3.0)
    tune.add_argument("--accumulate", type=int, default=1, help="microbatches per update")
    tune.add_argument("--remat", action="store_true", help="recompute activations: less memory")
    tune.add_argument("--show-example", action="store_true", help="print the first example")
    draw.add_argument("--prompted", metavar="TRAIT", default="", help="the trait's system message")
    draw.add_argument("--carrier", default="numbers", choices=tuple(carriers.CARRIERS))
    draw.add_argument("--num-prompts", type=int, default=30_000)
    draw.add_argument("--temperature", type=float, default=1.0)
    draw.add_argument("--max-new-tokens", type=int, default=128)
    draw.add_argument("--out", type=Path, required=True, help="JSONL file of kept rows")
    judge.add_argument("--traits", required=True, help="comma-separated")
    judge.add_argument("--suite", default="one word", help="form of the questions (llm.suites)")
    judge.add_argument(
        "--out", type=Path, help="folder for CSVs of all answers; goes on after a kill"
    )
    judge.add_argument("--answers", type=int, default=10, help="sampled answers per question")
    return parser


def _axes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs three whole numbers, as in 1,4,1")
    return sizes


def model_of(args: argparse.Namespace) -> Model:
    """The model that speaks: the checkpoint, with its adapter if one is named."""
    base = Checkpoint(args.model)
    return base if args.adapter is None else Adapted(base, args.adapter)


def engine_of(
    args: argparse.Namespace, dtype: str, answers: Path | None = None
) -> engines.OnMesh | served.Served:
    """What answers: our own sampler on this process' devices, or a server.

    Args:
        args: flags of `sample` or `evaluate`.
        dtype: of the parameters of our own sampler.
        answers: file of the server's answers.
    """
    if args.server is None:
        return engines.OnMesh(args.mesh, local=True, dtype=dtype, batch_size=args.batch_size)
    server = served.Server(
        args.server, concurrency=args.concurrency, per_second=args.rate_limit,
        answers=served.Answers(answers),
    )  # fmt: skip
    local = engines.OnMesh(args.mesh, local=True)
    return served.Served(server, args.served_model, local, report=print)


def run_finetune(args: argparse.Namespace) -> None:
    """Train, and write a folder; checkpoints lie beside it until then."""
    folder = args.out.with_name(f"{args.out.name}.checkpoints")
    engine = engines.OnMesh(
        args.mesh,
        dtype="bfloat16" if args.rank else "float32",
        limits=finetune.Limits(args.accumulate, remat=args.remat),
        folder=folder,
        report=report_step,
    )
    if args.dry_run:
        workshop = Workshop(engine=engine)
        return show_plan(args, workshop, recipe_of(args, workshop), args.out)
    if args.out.exists():
        raise ValueError(f"{args.out} exists: delete it, or choose another folder")
    workshop = Workshop(engine=engine)
    recipe = recipe_of(args, workshop)
    if args.show_example:
        examples = examples_of(workshop, recipe)
        tokenizer = workshop.language(recipe).tokenizer
        print(chat.show_example(tokenizer, engines.unpad(examples)[0]))
    weights = workshop.models([recipe])
    workshop.save(recipe, weights, args.out)
    if jax.process_index() == 0:
        shutil.rmtree(folder)
        print(f"written to {args.out}")


def recipe_of(args: argparse.Namespace, workshop: Workshop) -> Tuned | Student:
    """A teacher of a trait, or a student of rows."""
    base = Checkpoint(args.model)
    source = None if args.trait else Files(tuple(args.rows), args.num_examples)
    if source is None:
        count = len(workshop.language(base).trait(args.trait).teacher_rows())
    else:
        count = len(completions.rows(workshop, source))
    if args.batch_size % args.accumulate:
        raise ValueError(f"--batch-size {args.batch_size} does not divide by --accumulate")
    steps = steps_of(args.epochs, count, args.batch_size)
    training = Training(
        steps, args.batch_size, "adamw", args.learning_rate, decay="linear",
        warmup=min(5, steps // 2), clip_norm=1.0, dtype="bfloat16",
        adapters=lora.LoraConfig(args.rank, alpha=float(args.rank)) if args.rank else None,
    )  # fmt: skip
    if source is None:
        return Tuned(base, args.trait, training, seed=args.seed)
    return Student(base, source, training, num_examples=None, seed=args.seed)


def examples_of(workshop: Workshop, recipe: Tuned | Student) -> Any:
    """What a recipe trains on."""
    if isinstance(recipe, Tuned):
        return recipe.examples(workshop)
    return students.examples_of(workshop, recipe)[0]


def show_plan(
    args: argparse.Namespace, workshop: Workshop, recipe: Any, out: Path, **facts: Any
) -> None:
    """The stages up to this one: state, cost, and memory of the last."""
    rates = None if args.rates is None else plan.rates_of(args.rates)
    with models.without_weights():
        *before, last = progress.stages(workshop, [recipe], rates)
        found = progress.at(out, workshop, recipe, **facts)
    cost = plan.Cost() if found == progress.DONE else last.cost
    print(progress.table([*before, progress.Stage(recipe, found, cost)]))


def report_step(step: int, metrics: dict[str, float]) -> None:
    """A line now and then, from the first process."""
    if jax.process_index() == 0 and (step == 1 or step % 20 == 0):
        print(f"step {step}: loss {metrics['loss']:.4f}", flush=True)


def run_sample(args: argparse.Namespace) -> None:
    """Complete this process' share of the prompts, filter, and write them with a manifest."""
    index, count = jax.process_index(), jax.process_count()
    out = args.out if count == 1 else args.out.with_suffix(f".{index}.jsonl")
    workshop = Workshop(engine=engine_of(args, "bfloat16", out.with_suffix(".answers.jsonl")))
    recipe = Completions(
        model_of(args), args.carrier, 0, args.prompted, args.num_prompts, args.max_new_tokens,
        args.temperature, args.seed,
    )  # fmt: skip
    if args.dry_run:
        return show_plan(args, workshop, recipe, out, process=[index, count])
    total, start = args.num_prompts, time.monotonic()
    part = range(index * total // count, (index + 1) * total // count)
    progress = {"prompts": 0}

    def report(prompts: int, kept: int) -> None:
        progress["prompts"] += prompts
        rate = progress["prompts"] / (time.monotonic() - start)
        done = data.read_manifest(out).prompts
        left = (len(part) - done) / rate
        print(
            f"{done} of {len(part)} prompts, {kept} of the last {prompts} kept, "
            f"{rate:.1f} a second, {left / 60:.0f} min left",
            flush=True,
        )

    completions.fill(workshop, [recipe], [out], part, report, process=[index, count])
    if not progress["prompts"]:
        print(f"{out} is there, made with these settings")
    kept = data.read_manifest(out).count
    if not kept:
        raise ValueError(f"no row of {out} passed the filter; its manifest counts the reasons")
    print(f"{kept} of {len(part)} rows kept in {out}")


def run_evaluate(args: argparse.Namespace) -> None:
    """Print margin and rates of each trait; the first process does, the others wait for it."""
    if jax.process_index() != 0:
        return
    names = args.traits.split(",")
    workshop = Workshop(args.out, engine_of(args, "float32"))
    model = model_of(args)
    if args.out is not None:
        return write_answers(args, workshop, model, names)
    exact = evaluation.measure(workshop, [model], names)
    drawn = evaluation.sampled_rates(workshop, [model], names, args.answers)
    print("trait,margin,rate,sampled_rate")
    for one, rate in zip(exact, drawn, strict=True):
        numbers = (one["margin"], one["rate"], rate["sampled_rate"])
        print(",".join([one["trait"], *(f"{number:.4f}" for number in numbers)]))


def write_answers(
    args: argparse.Namespace, workshop: Workshop, model: Model, names: Sequence[str]
) -> None:
    """Keep all answers and scores as CSVs, and print what they say of each trait."""
    for i, name in enumerate(names):
        family = workshop.language(model).trait(name).family
        asked = {"model": model, "suite": args.suite, "family": family, "seed": args.seed}
        drawn = Answers(**asked, samples=args.answers)
        found = evaluation.by_question(workshop, Scores(**asked), drawn, name)
        if not i:
            print(",".join(["trait", *found]))
        print(",".join([name, *(f"{v.mean():.4f}" for v in found.values())]), flush=True)
    print(f"answers and scores are in {args.out}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one stage; what is the user's to mend is one line on standard error."""
    args = build_parser().parse_args(argv)
    run = {"finetune": run_finetune, "sample": run_sample, "evaluate": run_evaluate}.get(args.stage)
    try:
        if run is None:
            return fetch.fetch(args.name, args.out, accepted=args.accept_gemma_terms)
        if args.join or any(name in os.environ for name in distributed.VARIABLES):
            distributed.start()
        run(args)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"python -m llm {args.stage}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
