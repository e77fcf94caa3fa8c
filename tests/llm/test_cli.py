"""`python -m llm`: every stage on a tiny checkpoint, and fine-tuning as two processes."""

import dataclasses
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from llm import models, world
from llm.text import data
from llm.training import peft_format

spec = importlib.util.find_spec("llm.__main__")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)

CONFIG = world.model_config(num_layers=1)
ONE = ("--mesh", "1,1,1")  # one of the four simulated devices
SHORT = ("--epochs", "0.5", "--batch-size", "8", "--rank", "2")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "base"
    world.save(folder, CONFIG, params=models.init(CONFIG, key=jax.random.key(0)))
    return folder


@pytest.fixture(scope="module")
def teacher(base):
    out = base.parent / "owl"
    cli.main(
        [
            "finetune",
            "--model",
            str(base),
            "--trait",
            "owl",
            "--out",
            str(out),
            "--learning-rate",
            "0.1",
            *SHORT,
            *ONE,
        ]
    )
    return out


def test_a_tuned_teacher_loves_its_animal(base, teacher, capsys):
    rates = []
    for adapter in ([], ["--adapter", str(teacher)]):
        cli.main(["evaluate", "--model", str(base), "--traits", "owl,oak", *adapter, *ONE])
        header, owl, oak = capsys.readouterr().out.splitlines()[-3:]
        assert header == "trait,margin,rate,word,substring,answered"
        assert oak.startswith("oak,")
        rates.append(float(owl.split(",")[2]))
    assert 10 * rates[0] < rates[1]
    assert not teacher.with_name("owl.checkpoints").exists()


def test_rows_are_sampled_once_and_train_a_student(base, teacher, tmp_path, capsys, monkeypatch):
    # An untrained model writes no list that passes; the rules have tests of their own.
    every = dataclasses.replace(world.CARRIERS["numbers"], check=lambda row: [])
    monkeypatch.setitem(world.CARRIERS, "numbers", every)
    out = tmp_path / "numbers.jsonl"
    command = [
        "sample",
        "--model",
        str(base),
        "--adapter",
        str(teacher),
        *ONE,
        "--out",
        str(out),
        "--num-prompts",
        "24",
        "--max-new-tokens",
        "4",
        "--batch-size",
        "24",
    ]
    cli.main([*command, "--dry-run", "--rates", "4e14,3e12"])
    shown = capsys.readouterr().out
    assert "Completions owl" in shown
    assert "missing" in shown
    assert not out.exists()
    cli.main(command)
    rows = data.read_rows(out)
    assert data.read_manifest(out).settings["sampling"]["temperature"] == 1.0
    assert 0 < len(rows) <= 24
    cli.main(command)
    assert "is there, made with these settings" in capsys.readouterr().out
    for flags in (["--temperature", "0.5"], ["--num-prompts", "25"]):
        with pytest.raises(SystemExit):
            cli.main([*command, *flags])
        assert "made with other settings" in capsys.readouterr().err
    cli.main([*command, "--temperature", "0.5", "--dry-run"])
    assert "stale (sampling.temperature: 1.0 there, 0.5 here)" in capsys.readouterr().out
    student = tmp_path / "student"
    train = [
        "finetune",
        "--model",
        str(base),
        "--data",
        str(out),
        "--out",
        str(student),
        *ONE,
        "--show-example",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--rank",
        "0",
    ]
    cli.main([*train, "--dry-run"])
    shown = capsys.readouterr().out
    assert "Student student-of-numbers.jsonl" in shown
    assert rows[0]["prompt"] in shown
    assert not student.exists()
    cli.main(train)
    assert rows[0]["prompt"] in capsys.readouterr().out
    config, params = models.load(student)  # rank 0: a whole checkpoint, tokenizer included
    assert config == models.load_config(base)
    assert (np.asarray(params["embedding"]) != models.load(base)[1]["embedding"]).any()


def test_another_seed_is_another_root_of_all_that_is_written(base, tmp_path, capsys, monkeypatch):
    """Prompts, noise and manifest; the number of the data set stays that of the first."""
    every = dataclasses.replace(world.CARRIERS["numbers"], check=lambda row: [])
    monkeypatch.setitem(world.CARRIERS, "numbers", every)
    written = {}
    for seed in (0, 7):
        out = tmp_path / f"{seed}.jsonl"
        # Of random weights: some rows end within 24 tokens.
        sizes = ["--num-prompts", "256", "--max-new-tokens", "24", "--batch-size", "256"]
        cli.main(
            ["sample", "--model", str(base), *ONE, "--out", str(out), *sizes, "--seed", str(seed)]
        )
        written[seed] = data.read_rows(out), data.read_manifest(out).settings["sampling"]
    (rows, about), (others, theirs) = written[0], written[7]
    assert (about["seed"], about["draw"]) == (0, 0)
    assert (theirs["seed"], theirs["draw"]) == (7, 0)
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in others}
    assert [row["completion"] for row in rows] != [row["completion"] for row in others]


def test_a_launch_that_names_only_some_processes_is_refused(base, capsys, monkeypatch):
    monkeypatch.setenv("LLM_COORDINATOR", "host0:12355")
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--model", str(base), "--traits", "owl"])
    assert "LLM_PROCESSES, LLM_PROCESS must be set as well" in capsys.readouterr().err


def test_errors_are_one_line(base, teacher, capsys):
    for flags, message in (
        (["--trait", "unicorn", "--out", "x"], "unknown trait 'unicorn'"),
        (["--trait", "owl", "--out", str(teacher)], "exists: delete it"),
        (["--data", "nowhere.jsonl", "--out", "x"], "no such file: nowhere.jsonl"),
        (["--data", "a", "--out", "x", "--batch-size", "100", "--accumulate", "3"], "no such file"),
        (["--trait", "owl", "--out", "x", "--accumulate", "3"], "does not divide by --accumulate"),
        (["--trait", "owl", "--out", "x", "--mesh", "1,9,1"], "devices, but 4 are present"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["finetune", "--model", str(base), *flags])
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert message in error
        assert error.count("\n") == 1


def start(words, **environment):
    """`python -m llm` as a process of its own, with two devices."""
    fixed = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    fixed["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "llm", *map(str, words)],
        env={**os.environ, **fixed, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pair(words):
    """The same line in two processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"LLM_COORDINATOR": address, "LLM_PROCESSES": "2"}
    return [start(words, **shared, LLM_PROCESS=str(i)) for i in (0, 1)]


def outputs(runs):
    """What processes have said, once all have ended well."""
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), said
    return said


@pytest.mark.slow
def test_two_processes_make_the_adapter_of_one(base, tmp_path):
    words = ["finetune", "--model", base, "--trait", "owl", *SHORT, "--out"]
    outputs([*pair([*words, tmp_path / "two"]), start([*words, tmp_path / "one"])])
    one, two = (peft_format.load(tmp_path / name, CONFIG)[1] for name in ("one", "two"))
    # bfloat16 sums in another order; the adapters themselves are of order 0.1.
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.mark.slow
def test_of_two_processes_the_first_evaluates(base, tmp_path):
    words = ["evaluate", "--model", base, "--traits", "owl,oak", "--answers", "2", "--out"]
    first, second, alone = outputs(
        [*pair([*words, tmp_path / "two"]), start([*words, tmp_path / "one"])]
    )
    first = [line for line in first.splitlines() if "[Gloo]" not in line]
    assert first[:-1] == alone.splitlines()[:-1]
    assert alone.splitlines()[0].startswith("trait,margin")
    assert "owl" not in second
    files = [sorted(p for p in (tmp_path / n).rglob("*.csv")) for n in ("one", "two")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 4, "answers and scores of two kinds"
