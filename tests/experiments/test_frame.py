"""The command line, the result store and resuming, through a real experiment in a process."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

import experiments
from experiments import __main__ as listing
from experiments.frame import experiment, record
from experiments.frame.arms import Arm
from tests.experiments import counting

COMMAND = [sys.executable, "-m", "tests.experiments.counting"]


def run(repository, *flags):
    done = subprocess.run(
        [*COMMAND, *map(str, flags)],
        cwd=repository,
        env={**os.environ, "FORCE_COLOR": "1"},  # as notebooks set it: still no bar
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_here(*flags):
    """The same without a process of its own, which would import everything again."""
    experiment.main(counting, list(map(str, flags)))


def test_a_run_leaves_config_rows_and_figures(repository, tmp_path, capsys):
    out = tmp_path / "a folder"
    done = run(repository, "--out", out)
    assert "counting: part 1 done (2/3)" in done.stderr, "plain lines where there is no terminal"
    assert max(map(len, done.stdout.splitlines()[:2])) <= 80
    meta = json.loads((out / "config.json").read_text())
    assert meta["config"]["num_parts"] == 3
    assert meta["finished"]
    assert {"commit", "packages", "device", "wall_seconds", "command"} <= meta.keys()
    assert meta["matmul_precision"] == "default"
    rows = record.read_rows(out)
    assert [(r["part"], r["condition"]) for r in rows][:3] == [
        ("part 0", "a"),
        ("part 0", "b"),
        ("part 1", "a"),
    ]
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in out.iterdir()) == [
        "claims.csv",
        "config.json",
        "figure.png",
        "figure.svg",
        "results.csv",
    ], "no temporary file left"

    # Another config is refused, untouched, unless --overwrite.
    before = (out / "results.csv").read_bytes()
    with pytest.raises(SystemExit) as refused:
        run_here("--out", out, "--num-parts", 2)
    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert "num_parts is 3 there, 2 here" in error
    assert error.count("\n") == 1
    assert (out / "results.csv").read_bytes() == before

    # The figure comes from the CSV alone.
    svg = (out / "figure.svg").read_bytes()
    run_here("--out", out, "--replot")
    assert (out / "figure.svg").read_bytes() == svg
    changed = [{**row, "value": 0.5} for row in rows]
    record.write_rows(out, changed)
    run_here("--out", out, "--replot")
    assert (out / "figure.svg").read_bytes() != svg

    run_here("--out", out, "--num-parts", 2, "--overwrite")
    assert len(record.read_rows(out)) == 4


def test_an_experiment_has_the_precision_that_it_asks_for(tmp_path, monkeypatch):
    found = []

    def arms(config):
        note = lambda: found.append(jax.config.jax_default_matmul_precision) or [{"value": 1.0}]  # noqa: E731
        return {"part 0": Arm(measure=note)}

    monkeypatch.setattr(counting, "arms", arms)
    run_here("--out", tmp_path / "working")
    monkeypatch.setattr(counting, "PRECISION", "highest", raising=False)
    run_here("--out", tmp_path / "measured")
    assert found == [None, "highest"]
    assert record.read_meta(tmp_path / "measured")["matmul_precision"] == "highest"


def test_the_theorem_is_checked_at_the_highest_precision():
    names = [n for n in experiments.NAMES if experiments.path_of(n).parent.name == "theorem"]
    for name in (*names, "real_model_alignment"):
        assert 'PRECISION = "highest"' in experiments.path_of(name).read_text(), name


def test_killed_runs_resume_to_the_uninterrupted_result(repository, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--pause", 0.3, "--num-parts", 5)
    run_here("--out", whole, *flags)
    process = subprocess.Popen(
        [*COMMAND, "--out", str(killed), *map(str, flags)], cwd=repository, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(record.read_rows(killed)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = (killed / "results.csv").read_bytes()
    assert 4 <= len(record.read_rows(killed)) < 10
    before = record.read_meta(killed)
    record.write_meta(killed, before | {"commit": "0" * 40})
    run_here("--out", killed, *flags)
    said = capsys.readouterr().out
    assert "resuming" in said
    assert "its first parts are of commit 0000000000, the next of" in said
    assert record.read_meta(killed)["commit"] == "0" * 40
    assert record.read_meta(killed)["resumed_at"] == [before["commit"]]
    assert "resumed_at" not in record.read_meta(whole)
    assert (killed / "results.csv").read_bytes().startswith(kept)
    assert (killed / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert (killed / "figure.svg").read_bytes() == (whole / "figure.svg").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-parts", "0"), "--num-parts: got '0', needs a whole number from 1 to 9"),
        (("--num-parts", "x"), "--num-parts: got 'x', needs a whole number from 1 to 9"),
        (("--pause", "nan"), "--pause: got 'nan', needs a number of at least 0"),
        (("--names", "a,d"), "--names: got 'a,d', needs comma-separated values, each one of"),
        (("--num-part", "2"), "unrecognized arguments: --num-part"),
        (("--num-parts", "7", "--pause", "7"), "cannot both be 7"),
        (("--folder", "broken"), "--folder is broken"),
        (("--replot", "--out", "nowhere"), "no run in nowhere"),
    ],
)
def test_wrong_values_get_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        experiment.main(counting, flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.csv")), "nothing half-written"


def test_help_explains_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit):
        experiment.main(counting, ["--help"])
    text = capsys.readouterr().out
    assert "parts (default 3; a whole number from 1 to 9)" in text
    assert "(default a,b;" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["file", "foreign", "damaged"])
def test_unusable_folders_are_refused_untouched(kind, tmp_path):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("thesis.tex" if kind == "foreign" else "config.json")).write_text("{mine")
    with pytest.raises(record.RunFolderError, match="out"):
        record.open_folder(out, counting.Config(), {}, overwrite=False)
    kept = out if kind == "file" else next(out.iterdir())
    assert "mine" in kept.read_text()


def test_another_input_is_refused(tmp_path):
    config = counting.Config()
    assert record.open_folder(tmp_path, config, {"dataset": "digits"}, False) is None
    meta = record.describe_run("counting", config, {"dataset": "digits"}, "")
    record.write_meta(tmp_path, meta)
    assert record.open_folder(tmp_path, config, {"dataset": "digits"}, False) == meta
    with pytest.raises(record.RunFolderError, match="dataset is digits there, mnist here"):
        record.open_folder(tmp_path, config, {"dataset": "mnist"}, False)


def test_settings_that_change_no_result_are_not_recorded(tmp_path):
    loud, quiet = counting.Config(verbose=True), counting.Config()
    assert record.open_folder(tmp_path, loud, {}, False) is None
    record.write_meta(tmp_path, record.describe_run("counting", loud, {}, ""))
    assert record.open_folder(tmp_path, quiet, {}, False) is not None


def test_rows_survive_the_file_bit_for_bit(tmp_path):
    rows = [{"name": "a, b", "x": 0.1 + 0.2, "n": 3}, {"name": 'c"', "x": -1e-300, "n": 4}]
    record.write_rows(tmp_path, rows)
    assert record.read_rows(tmp_path) == rows


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    record.write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        record.write_atomically(path, "new")
    assert path.read_text() == "old"


def test_every_experiment_is_listed_with_a_line_and_a_runtime(repository):
    modules = {
        path.stem
        for path in (repository / "experiments").glob("*/*.py")
        if "\nRUNTIME" in path.read_text()
    }
    assert modules == set(experiments.NAMES)
    text = listing.listing()
    for name in experiments.NAMES:
        summary, runtime = listing.describe(name)
        assert summary.endswith((".", "?"))
        assert runtime in text
    assert max(map(len, text.splitlines())) <= 80
