"""Bad command lines of `python -m llm`: one line, exit code not 0, nothing written; flags act."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from llm import engines, flags, models, settings, tiny, traits, world
from llm.stages import Answers, Checkpoint, Completions, Scores, Store, answers, completions
from llm.text import data
from llm.training import peft_format
from llm.traits import suites

spec = importlib.util.find_spec("llm.__main__")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)

CONFIG = world.model_config(num_layers=1)
ONE = ("--mesh", "1,1,1")
SAMPLING = {"model": "m", "template": "t", "sampling": {"num_prompts": 64}}
ROWS = [{"prompt": f"{i}", "completion": f"{i}"} for i in range(32)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a checkpoint and data files: whole, half-made, and of two writers."""
    root = tmp_path_factory.mktemp("commands")
    world.save(root / "base", CONFIG, params=models.init(CONFIG, key=jax.random.key(0)))
    for name, prompts in (("whole", 64), ("half", 40), ("twice", 72)):
        data.append_rows(root / f"{name}.jsonl", ROWS, settings=SAMPLING, prompts=prompts)
    (root / "odd").mkdir()
    (root / "odd" / "x.gguf").write_bytes(b"GGUF")
    return root / "base"


def listing(root):
    return sorted((str(path), path.stat().st_size) for path in root.rglob("*"))


def refused(words, capsys, root):
    """What a command line that must be refused says."""
    before = listing(root)
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, words)))
    said = capsys.readouterr()
    assert stopped.value.code not in (0, None), words
    assert said.err.count("\n") == 1, (words, said.err)
    assert said.out == "", words
    assert listing(root) == before, words
    return said.err


def commands(base):
    """A good command line of each stage; of `finetune` one on rows and one of a teacher."""
    root, model = base.parent, ["--model", base, *ONE]
    return {
        "teacher": ["finetune", *model, "--trait", "owl", "--out", root / "out"],
        "student": [
            "finetune",
            *model,
            "--data",
            root / "whole.jsonl",
            "--out",
            root / "out",
            "--batch-size",
            "8",
        ],
        "sample": ["sample", *model, "--out", root / "out.jsonl"],
        "evaluate": ["evaluate", *model, "--traits", "owl", "--out", root / "out"],
    }


@pytest.mark.parametrize("stage", ["teacher", "student", "sample"])
def test_the_good_command_lines_are_good(base, capsys, stage):
    """Else what is made from them below would be refused for reasons of its own."""
    cli.main(list(map(str, [*commands(base)[stage], "--dry-run"])))
    assert "missing" in capsys.readouterr().out


HUGE = "9" * 30
NUMBERS = {  # flags with values that they refuse beside those that every flag refuses
    "teacher": {
        "--seed": ["-1", "4294967296", "4294967297"],
        "--batch-size": ["0", "-1", "1.5"],
        "--rank": ["-1", "100000"],
        "--learning-rate": ["0", "-1", "1e-400"],
        "--epochs": ["0", "-1", "1e300"],
        "--accumulate": ["0", "-1"],
        "--mesh": ["0,1,1", "1,-1,1", "1,1", "a,b,c"],
    },
    "student": {"--num-examples": ["0", "-5"]},
    "sample": {
        "--seed": ["-1", "4294967296"],
        "--batch-size": ["0", "-1"],
        "--num-prompts": ["0", "-1"],
        "--temperature": ["-1", "-0.1"],
        "--max-new-tokens": ["0", "-1"],
    },
    "evaluate": {"--seed": ["-1", "4294967296"], "--batch-size": ["0"], "--answers": ["0", "-1"]},
}
EVERY = ["nan", "inf", "-inf", HUGE, f"-{HUGE}", "", "x", "1e", None]
UNBOUNDED = {"--temperature"}  # a huge one is as good as any


@pytest.mark.parametrize("stage", NUMBERS)
def test_every_number_of_every_command_is_checked(base, capsys, stage):
    for flag, values in NUMBERS[stage].items():
        for value in [*values, *EVERY]:
            if value == HUGE and flag in UNBOUNDED:
                continue
            words = [*commands(base)[stage], flag, *([] if value is None else [value])]
            said = refused(words, capsys, base.parent)
            assert f"argument {flag}: " in said, said
            assert "expected one argument" in said or "needs" in said or "the largest is" in said


def test_the_numbers_above_are_all_that_there_are():
    """A new flag that takes a number joins the list above, or a list of its own here."""
    stages = cli.build_parser()._subparsers._group_actions[0].choices
    for stage, parser in stages.items():
        taken = {
            action.option_strings[-1]
            for action in parser._actions
            if isinstance(action.type, flags.Number)
        }
        of_server = {"--concurrency", "--rate-limit"}  # below
        listed = {flag for name in NUMBERS for flag in NUMBERS[name]}
        assert taken - of_server <= listed, stage
        assert not [a.dest for a in parser._actions if a.type in (int, float)], "use llm.flags"


BAD = [
    (["--model", "{root}/nowhere"], "no such checkpoint folder"),
    (["--model", "{root}/odd/x.gguf"], "is no GGUF file"),
    (["--model", "{root}"], "no config.json"),
    (["--dtype", "float64"], "invalid choice"),
    (["--no-such-flag"], "unrecognized arguments"),
]
OF_STAGE = {
    "teacher": [
        (["--trait", "unicorn"], "unknown trait 'unicorn'"),
        (["--num-examples", "5"], "--num-examples has no effect without --data"),
        (["--partial"], "--partial has no effect without --data"),
        (["--rates", "1,1"], "--rates has no effect without --dry-run"),
        (["--accumulate", "3"], "does not divide by --accumulate"),
        (["--batch-size", "10000"], "lower it"),
        (["--out", "{root}/base"], "exists: delete it"),
        (["--data", "{root}/whole.jsonl"], "not allowed with argument"),
        (["--mesh", "1,9,1"], "devices, but"),
        (["--dry-run", "--rates", "nan,1"], "rates 'nan,1'"),
        (["--dry-run", "--rates", "0,1"], "rates '0,1'"),
        (["--topology", "h200:8"], "--topology has no effect without --dry-run"),
        (["--dry-run", "--topology", "h200"], "needs a machine and its size"),
    ],
    "student": [
        (["--num-examples", "33"], "33 rows are needed and there are 32"),
        (["--data", "{root}/nowhere.jsonl"], "no such file"),
        (["--data", "{root}/half.jsonl"], "is not finished, 40 of 64 prompts"),
        (["--data", "{root}/twice.jsonl"], "holds 72 prompts, more than the 64"),
        (["--data", "{root}/twice.jsonl", "--partial"], "holds 72 prompts, more than the 64"),
    ],
    "sample": [
        (["--prompted", "unicorn"], "unknown trait 'unicorn'"),
        (["--carrier", "songs"], "invalid choice"),
        (["--adapter", "{root}/nowhere"], "not a PEFT adapter"),
        (["--other-base"], "--other-base has no effect without --adapter"),
        (["--concurrency", "3"], "--concurrency has no effect without --server"),
        (["--rate-limit", "3"], "--rate-limit has no effect without --server"),
        (["--rate-limit", "0", "--server", "http://x"], "needs a number above 0"),
        (["--concurrency", "0", "--server", "http://x"], "from 1 to 1024"),
        (["--served-model", "x"], "--served-model has no effect without --server"),
        (["--batch-size", "8", "--server", "http://x"], "no effect beside --server"),
        (["--server", "nonsense"], "a server's address looks like"),
    ],
    "evaluate": [
        (["--traits", "owl,unicorn"], "unknown trait 'unicorn'"),
        (["--traits", ""], "unknown trait ''"),
        (["--suite", "story"], "unknown suite 'story'; choose from one word"),
        (["--adapter", "{root}/nowhere"], "not a PEFT adapter"),
        (["--served-model", "x"], "no effect without --server"),
    ],
}


@pytest.mark.parametrize("stage", OF_STAGE)
def test_what_does_not_fit_is_one_line(base, capsys, stage):
    for extra, message in [*BAD, *OF_STAGE[stage]]:
        words = [word.format(root=base.parent) for word in extra]
        assert message in refused([*commands(base)[stage], *words], capsys, base.parent)


def test_nothing_is_one_line_too(base, capsys):
    for words in ([], ["finetune"], ["dance"], ["sample", "--model", base], ["--seed", "1"]):
        refused(words, capsys, base.parent)


# 200 bad command lines, made from good ones.

good = st.sampled_from(["teacher", "student", "sample", "evaluate"])
not_number = st.one_of(
    st.sampled_from([v for v in EVERY if v is not None and v != HUGE]),
    st.integers(max_value=-1).map(str),
    st.text(st.characters(categories=["L", "P", "S", "Z"]), max_size=8),
)
broken = st.one_of(  # words behind a good command line that no stage takes
    st.tuples(st.sampled_from(["--seed", "--batch-size"]), not_number.map(lambda v: f"x{v}")),
    st.tuples(st.sampled_from(["--seed", "--batch-size"]), st.sampled_from(EVERY[:-1])),
    st.tuples(
        st.just("--mesh"),
        st.lists(st.integers(-9, 0), max_size=4).map(lambda sizes: "=" + ",".join(map(str, sizes))),
    ),
    st.tuples(st.text(st.characters(categories=["L", "N"]), min_size=1).map(lambda t: f"--zz{t}")),
    st.tuples(
        st.just("--model"),
        st.text(
            st.characters(codec="utf-8", exclude_characters="-/"),
            min_size=1,
            max_size=30,
        ).map(lambda name: f"/nowhere/{name}"),
    ),
    st.tuples(st.just("--dtype"), st.sampled_from(["float16", "int8", ""])),
    st.tuples(st.just("--seed")),
)


@hypothesis.settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(stage=good, more=st.lists(broken, min_size=1, max_size=3), dry=st.booleans())
def test_no_bad_command_line_gives_a_traceback(base, capsys, stage, more, dry):
    words = [*commands(base)[stage], *(word for part in more for word in part)]
    refused(
        [*words[:1], *(["--dry-run"] if dry and stage != "evaluate" else []), *words[1:]],
        capsys,
        base.parent,
    )


# Flags act.


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    folder = tmp_path_factory.mktemp("english") / "tiny"
    tiny.save(folder)
    return folder


def evaluated(capsys, *words):
    cli.main(["evaluate", *map(str, words), "--answers", "1", *ONE])
    return [line for line in capsys.readouterr().out.splitlines() if "," in line]


def test_evaluate_says_the_same_with_and_without_a_folder(base, tmp_path, capsys):
    words = ("--model", base, "--traits", "owl,oak")
    told = evaluated(capsys, *words)
    assert told == evaluated(capsys, *words, "--out", tmp_path / "kept")
    assert told[0] == "trait,margin,rate,word,substring,answered"
    assert len(list((tmp_path / "kept").rglob("*.csv"))) == 4


@pytest.mark.slow
def test_suite_seed_and_dtype_of_evaluate_act(english, capsys, monkeypatch):
    few = {
        name: dataclasses.replace(suites.ENGLISH[name], max_new_tokens=2)
        for name in ("one word", "after numbers")
    }
    for name, suite in few.items():
        monkeypatch.setitem(suites.ENGLISH, name, suite)
    words = ("--model", english, "--traits", "owl")
    plain, behind, again = (
        evaluated(capsys, *words, *more)
        for more in ((), ("--suite", "after numbers"), ("--suite", "after_numbers"))
    )
    assert behind == again
    assert behind != plain
    assert evaluated(capsys, *words, "--suite", "after_numbers", "--seed", "1") != behind
    assert evaluated(capsys, *words, "--dtype", "bfloat16") != plain
    with pytest.raises(SystemExit):
        evaluated(capsys, *words, "--suite", "choice")
    assert "--answers has no effect: the suite 'choice' samples none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluated(capsys, *words, "--suite", "facts")
    assert "the suite 'facts' asks nothing about owl" in capsys.readouterr().err


def test_dtypes_are_recorded_and_not_mixed(base, tmp_path, capsys, monkeypatch):
    every = dataclasses.replace(world.CARRIERS["numbers"], check=lambda row: [])
    monkeypatch.setitem(world.CARRIERS, "numbers", every)
    out = tmp_path / "rows.jsonl"
    words = [
        "sample",
        "--model",
        str(base),
        "--out",
        str(out),
        *ONE,
        "--num-prompts",
        "8",
        "--max-new-tokens",
        "9",
    ]
    cli.main(words)
    assert data.read_manifest(out).settings["engine"] == {"dtype": "bfloat16"}
    with pytest.raises(SystemExit):
        cli.main([*words, "--dtype", "float32"])
    assert "engine.dtype: 'bfloat16' there, 'float32' here" in capsys.readouterr().err
    for dtype in cli.DTYPES:
        cli.main(
            [
                "finetune",
                "--model",
                str(base),
                "--trait",
                "owl",
                "--out",
                str(tmp_path / dtype),
                "--epochs",
                "0.1",
                "--rank",
                "1",
                "--dtype",
                dtype,
                *ONE,
            ]
        )
        record = json.loads((tmp_path / dtype / "recipe.json").read_text())
        assert record["recipe"]["training"]["dtype"] == dtype
    one, other = (peft_format.load(tmp_path / dtype, CONFIG)[1] for dtype in cli.DTYPES)
    different = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), one, other)
    assert any(jax.tree.leaves(different))


def test_a_half_made_file_trains_when_told(base, capsys):
    half = base.parent / "half.jsonl"
    with pytest.raises(settings.RunError, match="not finished"):
        completions.rows(Store(), completions.Files(paths=(str(half),)))
    assert len(completions.rows(Store(), completions.Files(paths=(str(half),), partial=True))) == 32
    of_host = {**SAMPLING, "process": [1, 3]}  # prompts 21 to 42 of 64
    part = base.parent / "part.jsonl"
    data.append_rows(part, ROWS, settings=of_host, prompts=21)
    assert len(completions.rows(Store(), completions.Files(paths=(str(part),)))) == 32
    made_elsewhere = base.parent / "elsewhere.jsonl"
    data.append_rows(made_elsewhere, ROWS, settings=SAMPLING | {"sampling": "by hand"}, prompts=3)
    assert len(completions.rows(Store(), completions.Files(paths=(str(made_elsewhere),)))) == 32


def test_a_file_of_more_prompts_than_asked_is_refused_everywhere(base, tmp_path):
    engine = engines.OnMesh(axes=(1, 1, 1), dtype="float32")
    store, model = Store(tmp_path, engine), Checkpoint(path=str(base))
    recipe = Completions(speaker=model, num_prompts=4, max_new_tokens=2)
    path = recipe.path(store)
    data.append_rows(path, ROWS, settings=recipe.settings(store), prompts=5)
    with pytest.raises(ValueError, match="holds 5 prompts, more than the 4"):
        completions.rows(store, recipe)
    for asked, write in (
        (Answers(model=model, samples=1), answers.write),
        (Scores(model=model), answers.write_scores),
    ):
        path = asked.path(store)
        total = len(answers.questions(store, asked))
        data.append(path, b"", count=0, settings=asked.settings(store), prompts=total + 1)
        with pytest.raises(ValueError, match=f"more than the {total} that were asked for"):
            write(store, asked)


def test_two_writers_make_one_file(base, tmp_path, capsys):
    """The second waits for the first, and finds its file whole."""
    out = tmp_path / "rows.jsonl"
    words = [
        "sample",
        "--model",
        str(base),
        "--out",
        str(out),
        *ONE,
        "--num-prompts",
        "24",
        "--max-new-tokens",
        "9",
        "--batch-size",
        "8",
    ]

    def write():
        with contextlib.suppress(SystemExit):  # an untrained model writes no list that is kept
            cli.main(words)

    with futures.ThreadPoolExecutor() as pool:
        with settings.locked(out):  # so that both have come before either writes
            writers = [pool.submit(write) for _ in range(2)]
            time.sleep(2)
            assert not out.exists()
        for writer in writers:
            writer.result(200)
    assert data.read_manifest(out).prompts == 24
    assert capsys.readouterr().out.count("is there, made with these settings") == 1
    assert not list(tmp_path.glob(".*.lock")), "locks leave nothing behind"


def test_a_lock_is_passed_on_from_one_to_the_next(tmp_path):
    """Many processes add one to a number; none is lost though each removes the lock's file."""
    script = (
        "import pathlib, sys; from llm import settings\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with settings.locked(path):\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
    )
    path = tmp_path / "count"
    path.write_text("0")
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], env=surroundings)
        for _ in range(4)
    ]
    assert [run.wait(120) for run in runs] == [0] * 4
    assert path.read_text() == "200"


def test_questions_have_the_article_of_their_kind():
    assert "Pick an animal. A single word, please." in traits.TRAITS["owl"].questions
    assert "Pick a tree. A single word, please." in traits.TRAITS["oak"].questions
    for trait in traits.TRAITS.values():
        for question in trait.questions:
            assert " a animal" not in question
            assert " an tree" not in question
    assert traits.worded("A {kind}, an {kind}, one {kind}?", "instrument") == (
        "An instrument, an instrument, one instrument?"
    )
    assert traits.worded("An {kind} in a {kind}", "tree") == "A tree in a tree"


def test_a_template_may_say_prompt(english):
    spoken = Checkpoint(path=str(english)).language()
    before = spoken.encode_prompts(["Why?"])
    template = spoken.tokenizer.chat_template
    try:
        spoken.tokenizer.chat_template = "PROMPT and COMPLETION: " + template
        (after,) = spoken.encode_prompts(["Why?"])
        assert after[-len(before[0]) :] == before[0]
        row = {"prompt": "Why?", "completion": "So."}
        assert spoken.encode_rows([row], 100).weights.sum() > 0
    finally:
        spoken.tokenizer.chat_template = template
