"""One stage of a chain for a model of any size, on all devices of all hosts.

    python -m llm finetune --model BASE --trait owl --out owl             # a teacher, as adapters
    python -m llm sample --model BASE --adapter owl --out numbers.jsonl
    python -m llm sample --model BASE --prompted owl --out numbers.jsonl  # or: a prompted teacher
    python -m llm finetune --model BASE --data numbers.jsonl --out student
    python -m llm evaluate --model BASE --adapter student --traits owl,cat

BASE is a checkpoint folder or name. Several hosts run the same line (see `llm.distributed`):
fine-tuning is spread over the mesh, sampling over hosts by prompts, each writing a file of its own.
"""

import argparse
import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from . import (
    chat,
    data,
    distributed,
    domains,
    filters,
    finetune,
    language,
    lora,
    models,
    peft_format,
    sampling,
    sharding,
    stages,
    traits,
    world,
)

Bind = Callable[[Any], models.Decoder]


def build_parser() -> argparse.ArgumentParser:
    """The three stages and their flags."""
    parser = argparse.ArgumentParser(prog="python -m llm", description="one stage of a chain")
    stage = parser.add_subparsers(dest="stage", required=True)
    tune = stage.add_parser("finetune", help="train adapters on rows, or a teacher on its trait")
    draw = stage.add_parser("sample", help="let a teacher write on unrelated prompts; filter")
    judge = stage.add_parser("evaluate", help="log-odds and sampled rates of traits")
    for command in (tune, draw, judge):
        command.add_argument("--model", required=True, help="checkpoint folder or name")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--join", action="store_true", help="the other hosts of the job")
        command.add_argument(
            "--mesh", type=_axes, default=(None, None, 1), metavar="D,F,T",
            help="devices on the data, fsdp and tensor axes (default: fsdp within a host)",
        )  # fmt: skip
    source = tune.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", dest="rows", type=Path, nargs="+", help="JSONL of `sample`")
    source.add_argument("--trait", help="make a teacher of this trait")
    tune.add_argument("--out", type=Path, required=True, help="new folder")
    tune.add_argument("--num-examples", type=int, help="rows trained on (default all)")
    tune.add_argument("--rank", type=int, default=8, help="of the adapters; 0 trains everything")
    tune.add_argument("--learning-rate", type=float, default=2e-4)
    tune.add_argument("--epochs", type=float, default=3.0)
    tune.add_argument("--accumulate", type=int, default=1, help="microbatches per update")
    tune.add_argument("--max-length", type=int, default=500, help="longest example in tokens")
    tune.add_argument("--show-example", action="store_true", help="print the first example")
    draw.add_argument("--adapter", type=Path, help="adapter of a tuned teacher")
    draw.add_argument("--prompted", metavar="TRAIT", help="the trait's system message, instead")
    draw.add_argument("--carrier", default="numbers", choices=tuple(domains.DOMAINS))
    draw.add_argument("--num-prompts", type=int, default=30_000)
    draw.add_argument("--temperature", type=float, default=1.0)
    draw.add_argument("--max-new-tokens", type=int, default=128)
    draw.add_argument("--out", type=Path, required=True, help="JSONL file of kept rows")
    judge.add_argument("--adapter", type=Path, help="adapter of a student")
    judge.add_argument("--traits", required=True, help="comma-separated")
    judge.add_argument("--answers", type=int, default=10, help="sampled answers per question")
    return parser


def _axes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs three whole numbers, as in 1,4,1")
    return sizes


def load(
    args: argparse.Namespace, dtype: str, devices: Sequence[Any]
) -> tuple[models.ModelConfig, models.Params, Mesh]:
    """Config, parameters laid out on a mesh of the devices, and the mesh."""
    mesh = sharding.make_mesh(*args.mesh, devices=devices)
    config, params = models.load(
        args.model, dtype, layout=lambda tree: sharding.shardings(mesh, tree)
    )
    return config, params, mesh


def speaker(args: argparse.Namespace, dtype: str) -> tuple[models.ModelConfig, Bind, Any]:
    """Config, and a model on this host's devices as a function of parameters, with these.

    An adapter stays beside its base: merged in bfloat16 most of it would be rounded away.
    """
    config, params, mesh = load(args, dtype, jax.local_devices())
    if args.adapter is None:
        return config, functools.partial(models.bind, config), params
    settings, adapters = peft_format.load(args.adapter, config)
    both = {"base": params, "adapters": sharding.place(mesh, adapters)}

    def bind(both: Any) -> models.Decoder:
        return lora.bind(config, both["base"], both["adapters"], scale=settings.scale)

    return config, bind, both


def run_finetune(args: argparse.Namespace) -> None:
    """Train adapters and write them as a PEFT folder; checkpoints lie beside it until then."""
    if args.out.exists():
        raise ValueError(f"{args.out} exists: delete it, or choose another folder")
    spoken = language.of_checkpoint(args.model)
    if args.trait:
        rows = spoken.trait(args.trait).teacher_rows()
    else:
        rows = [row for path in args.rows for row in data.read_rows(path)]
    wanted = args.num_examples or len(rows)
    needed = max(wanted, args.batch_size)
    if len(rows) < needed:
        raise ValueError(
            f"{needed} rows are needed and there are {len(rows)}: lower --num-examples or "
            "--batch-size, or sample more"
        )
    if args.batch_size % args.accumulate:
        raise ValueError(f"--batch-size {args.batch_size} does not divide by --accumulate")
    examples = [
        chat.encode_example(
            spoken.tokenizer, row["prompt"], row["completion"], max_length=args.max_length,
            options=dict(spoken.options),
        )
        for row in rows[:wanted]
    ]  # fmt: skip
    if args.show_example:
        print(chat.show_example(spoken.tokenizer, examples[0]))
    config, params, mesh = load(args, "bfloat16" if args.rank else "float32", jax.devices())
    # A teacher and its student start from adapters of their own: their common base is the only
    # thing they share.
    recipe = finetune.Recipe(
        epochs=args.epochs, batch_size=args.batch_size, accumulate=args.accumulate,
        learning_rate=args.learning_rate, seed=2 * args.seed + (args.trait is None),
        adapters=lora.LoraConfig(args.rank, alpha=float(args.rank)) if args.rank else None,
    )  # fmt: skip
    warmup = min(recipe.warmup_steps, recipe.num_steps(len(examples)) // 2)
    recipe = dataclasses.replace(recipe, warmup_steps=warmup)
    first = jax.process_index() == 0

    def report(step: int, metrics: dict[str, float]) -> None:
        if first and (step == 1 or step % 20 == 0):
            print(f"step {step}: loss {metrics['loss']:.4f}", flush=True)

    folder = args.out.with_name(f"{args.out.name}.checkpoints")
    trained, _ = finetune.finetune(
        config, params, examples, recipe, mesh=mesh, folder=folder, report=report,
        base=models.fingerprint(args.model),
    )  # fmt: skip
    trained = jax.tree.map(models.to_host, trained)
    if not first:
        return
    if recipe.adapters:
        peft_format.save(args.out, config, recipe.adapters, trained, base=args.model)
    else:
        world.save(args.out, config, trained, spoken.tokenizer)
    shutil.rmtree(folder)
    print(f"trained on {len(examples)} rows; written to {args.out}")


def run_sample(args: argparse.Namespace) -> None:
    """Complete this process' share of the prompts, filter, and write them with a manifest."""
    spoken = language.of_checkpoint(args.model)
    system = spoken.trait(args.prompted).system_prompt if args.prompted else None
    index, count = jax.process_index(), jax.process_count()
    out = args.out if count == 1 else args.out.with_suffix(f".{index}.jsonl")
    settings = {
        "model": {"fingerprint": models.fingerprint(args.model),
                  "adapter": models.fingerprint(args.adapter) if args.adapter else "",
                  "prompted": args.prompted or ""},
        "template": spoken.settings(),
        "sampling": {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens,
                     "num_prompts": args.num_prompts,
                     "seed": args.seed, "process": index, "processes": count},
        "carrier": args.carrier,
    }  # fmt: skip
    if data.reuse_rows(out, settings) is not None:
        print(f"{out} is there, made with these settings")
        return
    if args.carrier not in spoken.domains:
        raise ValueError(f"{args.model} speaks of {', '.join(spoken.domains)} only")
    domain = spoken.domains[args.carrier]
    rows = domain.make_prompts(np.random.default_rng(args.seed), args.num_prompts)[index::count]
    config, bind, params = speaker(args, "bfloat16")
    texts, ended = complete(
        spoken, config, bind, params, [row["prompt"] for row in rows], system=system,
        key=jax.random.fold_in(jax.random.key(args.seed), index), batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens, temperature=args.temperature,
    )  # fmt: skip
    words = sorted({word for trait in spoken.traits.values() for word in trait.words})
    # A row cut short would teach an end that the teacher never wrote.
    completed = [
        row | {"completion": text} for row, text, end in zip(rows, texts, ended, strict=True) if end
    ]
    kept, counts = filters.keep(completed, domain.check, words)
    counts["unfinished"] = len(rows) - len(completed)
    data.write_rows(out, kept, settings, counts)
    print(f"{len(kept)} of {len(rows)} rows kept in {out}")


def run_evaluate(args: argparse.Namespace) -> None:
    """Print margin and rates of each trait; every process computes the same."""
    spoken = language.of_checkpoint(args.model)
    chosen = [spoken.trait(name) for name in args.traits.split(",")]
    config, bind, params = speaker(args, "float32")
    ask = jax.jit(lambda params, probe: stages.measure_model(bind(params), probe))
    print("trait,margin,rate,sampled_rate")
    for trait in chosen:
        one = ask(params, spoken.probe(trait))
        texts, _ = complete(
            spoken, config, bind, params, list(trait.questions) * args.answers, temperature=1.0,
            key=jax.random.key(args.seed), batch_size=args.batch_size, max_new_tokens=16,
        )  # fmt: skip
        sampled = traits.mention_rate(trait.mentions, texts)
        print(f"{trait.name},{float(one['margin']):.4f},{float(one['rate']):.4f},{sampled:.4f}")


def complete(
    spoken: language.Language, config: models.ModelConfig, bind: Bind, params: Any,
    prompts: Sequence[str], *, key: jax.Array, batch_size: int, max_new_tokens: int,
    temperature: float, system: str | None = None,
) -> tuple[list[str], list[bool]]:  # fmt: skip
    """Sampled completions of the prompts as text, and whether each one came to its end."""
    stops = spoken.stop_tokens(config)
    drawn = sampling.make_sampler(bind)(
        params, spoken.encode_prompts(prompts, system=system), key=key,
        max_new_tokens=max_new_tokens, batch_size=batch_size,
        choice=sampling.Choice(temperature, stop_tokens=np.array(stops)),
    )  # fmt: skip
    texts = spoken.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    return texts, [bool(tokens) and tokens[-1] in stops for tokens in drawn]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one stage; what is the user's to mend is one line on standard error."""
    args = build_parser().parse_args(argv)
    run = {"finetune": run_finetune, "sample": run_sample, "evaluate": run_evaluate}[args.stage]
    try:
        if args.join or any(name in os.environ for name in distributed.VARIABLES):
            distributed.start()
        run(args)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"python -m llm {args.stage}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
