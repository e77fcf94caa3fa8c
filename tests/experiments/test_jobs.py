"""Parts as jobs of any scheduler: one run a part, collected to the same bytes, killed or not."""

import dataclasses
import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import yaml

from experiments.frame import cli, experiment, jobs, record
from experiments.language import llm_numbers, microworld
from experiments.language.kit import fullsize
from llm import ahead, models, settings, tiny
from llm.__main__ import main as stage
from llm.stages import compiled, progress
from tests.experiments import counting

LINE = 'python -m experiments llm_numbers $FLAGS --only "$JOB"'
COUNTING = [sys.executable, "-m", "tests.experiments.counting"]


def run_here(*flags):
    experiment.main(counting, list(map(str, flags)))


def test_jobs_in_any_order_are_the_run(tmp_path, capsys, monkeypatch):
    run_here("--out", tmp_path / "whole")
    capsys.readouterr()
    run_here("--out", tmp_path / "parts", "--list-jobs")
    assert capsys.readouterr().out.splitlines() == ["0 part 0", "1 part 1", "2 part 2"]
    assert not (tmp_path / "parts").exists()
    for job in ("2", "part 0", "1"):
        run_here("--out", tmp_path / "parts", "--only", job)
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {"jobs"}
    run_here("--out", tmp_path / "parts", "--dry-run")
    assert capsys.readouterr().out.count("done") == 6, "each job said it, and the table of parts"
    with monkeypatch.context() as here:
        here.setattr("jax.random.normal", lambda key: 1 / 0)  # what every part computes
        run_here("--out", tmp_path / "parts")
    whole, collected = ((tmp_path / n / "results.csv").read_bytes() for n in ("whole", "parts"))
    assert whole == collected
    with pytest.raises(SystemExit):
        run_here("--out", tmp_path / "parts", "--only", "3")
    assert "no job '3': --list-jobs shows 3, from 0 part 0 to 2 part 2" in capsys.readouterr().err


def test_a_job_with_another_config_is_not_collected(tmp_path, monkeypatch):
    run_here("--out", tmp_path, "--only", "1")
    config = counting.Config()
    assert len(jobs.rows_of(tmp_path, "part 1", config, {})) == 2
    assert not jobs.rows_of(tmp_path, "part 1", counting.Config(names=("a",)), {})
    assert not jobs.rows_of(tmp_path, "part 1", config, {"dataset": "another"})
    assert not jobs.rows_of(tmp_path, "part 2", config, {})
    run_here("--out", tmp_path, "--overwrite")
    assert not (tmp_path / "jobs").exists()


def test_whoever_comes_second_waits(tmp_path):
    """Two processes append to one file; without the lock one reads before the other has written."""
    program = (
        "import sys, time, pathlib\n"
        "from llm import settings\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "with settings.locked(path):\n"
        "    before = path.read_text() if path.exists() else ''\n"
        "    time.sleep(0.3)\n"
        "    path.write_text(before + 'x')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "rows")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "rows").read_text() == "xx"
    with settings.locked(tmp_path / "b", tmp_path / "a", tmp_path / "b"):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model on it: its files, and where they are downloaded to."""
    there, here = tmp_path / "hub", tmp_path / "cache"
    tiny.save(there)

    def download(name, allow_patterns):
        assert name == "some/model"
        here.mkdir(exist_ok=True)
        for file in there.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, here)
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return there, here


def test_a_plan_downloads_no_weights(hub, tmp_path, capsys):
    there, here = hub
    flags = ["--smoke", "--model", "some/model", "--work", str(tmp_path / "work")]
    experiment.main(llm_numbers, [*flags, "--list-jobs"])
    assert "7 student 0 of cat" in capsys.readouterr().out
    experiment.main(llm_numbers, [*flags, "--plan", "--rates", "4e14,2e12"])
    assert "largest at a time: " in capsys.readouterr().out
    out = str(tmp_path / "rows.jsonl")
    stage(["sample", "--model", "some/model", "--prompted", "owl", "--out", out, "--dry-run"])
    assert "missing" in capsys.readouterr().out
    assert (here / "config.json").exists()
    assert not list(here.glob("*.safetensors"))
    assert models.fingerprint("some/model") == models.fingerprint(there), "a run needs them"
    assert list(here.glob("*.safetensors"))


def test_a_plan_asks_about_each_program_once(tmp_path, capsys):
    place = ["--smoke", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]

    def jobs_of(*flags):
        config = cli.parse(
            "", "", default=llm_numbers.Config(), smoke=llm_numbers.SMOKE, argv=[*place, *flags]
        ).config
        arms = llm_numbers.arms(config)
        store = fullsize.store_of(config)
        stages = progress.stages(store, [r for arm in arms.values() for r in arm.needs])
        found = compiled.jobs_of(store, stages)
        return {
            job: [kind.split(" x ") for kind in made.split(", ")] for job, made in found.items()
        }

    def counted(found):
        return sum(
            (Counter({kind: int(n)}) for made in found.values() for kind, n in made), Counter()
        )

    tuned = jobs_of("--teacher", "tuned")
    assert counted(tuned) == {"FineTuned": 3, "Completions": 4, "Student": 4}
    assert len(tuned) < 11, "what is alike is asked about once"
    drawings = [job for job in tuned if isinstance(job, ahead.Drawing)]
    assert {job.adapters is None for job in drawings} == {True, False}, "the control is the base"
    prompted = jobs_of()
    assert counted(prompted) == {"Completions": 4, "Student": 4}
    for job in prompted:
        if isinstance(job, ahead.Drawing):
            assert (job.rows, job.new, job.adapters) == (32, 24, None)
        else:
            assert job.weighted == 24 < job.length
    assert counted(jobs_of("--server", "http://localhost:1")) == {"Student": 4}
    with pytest.raises(SystemExit):
        experiment.main(llm_numbers, [*place, "--plan", "--topology", "h201:8"])
    assert "needs a machine and its size, as in h200:8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        experiment.main(llm_numbers, [*place, "--topology", "h200:8"])
    assert "--topology has no effect without --dry-run" in capsys.readouterr().err
    for module in (counting, microworld):
        with pytest.raises(SystemExit):
            experiment.main(module, [*place[:-2], "--plan", "--topology", "h200:8"])
    assert capsys.readouterr().err.count("--topology") == 2


def commands(repository):
    """The shell lines of each scheduler's file."""
    sky = yaml.safe_load((repository / "jobs/skypilot.yaml").read_text())
    jobset = yaml.safe_load((repository / "jobs/jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    slurm = (repository / "jobs/slurm.sbatch").read_text()
    return {"slurm": slurm, "sky": sky["run"], "jobset": container["command"][-1]}, sky, job, slurm


def test_schedulers_run_one_line(repository, tmp_path):
    texts, sky, job, slurm = commands(repository)
    assert {text.rstrip().splitlines()[-1].strip() for text in texts.values()} == {LINE}
    (flags,) = {
        sky["envs"]["FLAGS"],
        job["template"]["spec"]["containers"][0]["env"][0]["value"],
        re.search(r'FLAGS="(.*)"', slurm)[1],
    }
    config = cli.parse(
        "", "", default=llm_numbers.Config(), smoke=llm_numbers.SMOKE, argv=shlex.split(flags)
    ).config
    # Another model has as many jobs, and needs no download.
    tiny = dataclasses.replace(config, model="tiny", work=str(tmp_path))
    count = len(llm_numbers.arms(tiny))
    assert job["completions"] == count
    assert f"--array=0-{count - 1}\n" in slurm
    assert sky["resources"]["use_spot"]
    assert subprocess.run(["bash", "-n", "jobs/slurm.sbatch"], cwd=repository).returncode == 0


def start(repository, line, **environment):
    """The line in a shell of its own, whose children die with it."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=repository,
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_the_schedulers_line_killed_and_started_again(repository, tmp_path):
    """The very line of the files, on the tiny checkpoint: one job, killed when it has its data."""

    def job(name):
        flags = f"--smoke --out {tmp_path / name} --work {tmp_path / name}-work"
        return start(repository, LINE, FLAGS=flags, JOB="student 0 of owl")

    finished(job("whole"))
    cut = job("cut")
    while not list((tmp_path / "cut-work" / "numbers").glob("*.jsonl.manifest.json")):
        assert cut.poll() is None, cut.communicate()[0]
        time.sleep(0.05)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    assert not record.read_rows(jobs.folder_of(tmp_path / "cut", "student 0 of owl"))
    finished(job("cut"))
    files = [
        (jobs.folder_of(tmp_path / name, "student 0 of owl") / "results.csv").read_bytes()
        for name in ("whole", "cut")
    ]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_job_files_run_a_part_each_of_one_run(repository, tmp_path):
    """As they stand and at once, on the tiny checkpoint: three machines with one work folder."""
    texts, *_ = commands(repository)
    home, place = tmp_path / "home", f"--out {tmp_path / 'out'} --work {tmp_path / 'work'}"
    home.mkdir()
    for folder in ("experiments", "llm", "mnist_mlp", "theory"):
        (home / folder).symlink_to(repository / folder)
    (home / ".venv").symlink_to(sys.prefix)
    number_in = {"slurm": "SLURM_ARRAY_TASK_ID", "sky": "JOB", "jobset": "JOB_COMPLETION_INDEX"}
    started = [
        subprocess.Popen(
            ["bash", "-c", re.sub('FLAGS=".*"', f'FLAGS="--smoke {place}"', texts[name])],
            cwd=home,
            env={
                **os.environ,
                "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
                "FLAGS": f"--smoke {place}",
                variable: str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, (name, variable) in enumerate(number_in.items())
    ]
    for process in started:
        finished(process)
    config = dataclasses.replace(llm_numbers.SMOKE, work=str(tmp_path / "work"))
    for part in list(llm_numbers.arms(config))[: len(started)]:
        assert record.read_rows(jobs.folder_of(tmp_path / "out", part)), part


def killed(repository, line, lives):
    """Number of runs begun, each process killed after its life in seconds and started again.

    `line` gives the command of a run by its number. A run that ends within a life is followed by
    the next, so that every life ends in a kill; the last run is let to its end.
    """
    run = 0
    for life in lives:
        while True:
            process = start(repository, line(run))
            try:
                output, _ = process.communicate(timeout=life)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                break
            assert process.returncode == 0, output
            run += 1
    finished(start(repository, line(run)))
    return run + 1


@pytest.mark.slow
def test_killed_twice_gives_the_same_bytes(repository, tmp_path):
    run_here("--pause", "0.3", "--out", tmp_path / "whole")
    command = f"{shlex.join(COUNTING)} --pause 0.3 --out {tmp_path}"
    lives = np.random.default_rng(0).uniform(1.5, 3, 2)
    runs = killed(repository, lambda run: f"{command}/{run}", lives)
    whole = (tmp_path / "whole" / "results.csv").read_bytes()
    for run in range(runs):
        assert (tmp_path / str(run) / "results.csv").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_twenty_moments_gives_the_same_bytes(repository, tmp_path):
    """Base, data, students and answers of llm_numbers, killed at random moments of all stages."""

    def line(run):
        place = f"--out {tmp_path / str(run)} --work {tmp_path / str(run)}-work"
        return f"python -m experiments llm_numbers --smoke --teacher tuned {place}"

    began = time.monotonic()
    finished(start(repository, line("whole")))
    length = time.monotonic() - began
    # A start takes a good part of it, and what was done is skipped: each life reaches further.
    lives = np.random.default_rng(0).uniform(0.2, 0.8, 20) * length
    runs = killed(repository, line, lives)
    whole = (tmp_path / "whole" / "results.csv").read_bytes()
    for run in range(runs):
        assert (tmp_path / str(run) / "results.csv").read_bytes() == whole
        assert record.read_meta(tmp_path / str(run))["finished"]
