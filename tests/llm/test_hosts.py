"""Several processes, as on several hosts, make what one process makes, a kill included.

Two make the same bytes. From three on the sum of gradients depends on its order: one process adds
its devices from first to last, gloo adds around a ring, each part from another process on. So four
processes are held to their own bytes, and to those of one process up to round-off.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from llm.stages import Pretrained, Store

PATIENCE = 600  # seconds of one stage; processes share the cores of this machine


def launch(words, processes, devices):
    """`python -m llm` in so many processes of so many simulated devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for number in range(processes):
        job = {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        if processes > 1:
            job |= {
                "LLM_COORDINATOR": address,
                "LLM_PROCESSES": str(processes),
                "LLM_PROCESS": str(number),
            }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "llm", *map(str, words)],
                env={**os.environ, **job},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(started):
    """Wait for all to end well."""
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), said


def kill_one_when(path, started):
    """End the last process by force once a path is there; the others then wait for it in vain."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        assert all(process.poll() is None for process in started), started[0].stdout.read()
        time.sleep(0.02)
    started[-1].send_signal(signal.SIGKILL)
    for process in started:
        process.kill()
        process.communicate()


def chain(folder, base, *, processes, devices, kill):
    """Sample, fine-tune and evaluate; returns the bytes of adapter and answers by file name."""
    folder.mkdir()
    numbers, student, answers = (folder / name for name in ("numbers.jsonl", "student", "answers"))
    where = ("--model", base, "--dtype", "float32")
    words = ["sample", *where, "--num-prompts", 240, "--max-new-tokens", 12, "--out", numbers]
    finish(launch(words, processes, devices))
    parts = [numbers.with_suffix(f".{i}.jsonl") for i in range(processes)]
    words = ["finetune", *where, "--data", *(parts if processes > 1 else [numbers])]
    words += ["--num-examples", 64, "--batch-size", 8, "--epochs", 40, "--rank", 2]
    words += ["--mesh", f"1,{processes * devices},1", "--out", student]
    if kill:
        checkpoint = student.with_name("student.checkpoints") / "100"
        kill_one_when(checkpoint, launch(words, processes, devices))
        assert not student.exists(), "killed too late"
    finish(launch(words, processes, devices))
    words = ["evaluate", *where, "--adapter", student, "--traits", "owl,cat", "--answers", 2]
    finish(launch([*words, "--out", answers], processes, devices))
    files = [student / "adapter_model.safetensors", *sorted(answers.rglob("*.csv"))]
    assert len(files) > 2
    return {path.name: path.read_bytes() for path in files}


def adapter(folder):
    """All numbers of a student's adapter, in one vector."""
    weights = safetensors.numpy.load_file(folder / "student" / "adapter_model.safetensors")
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


@pytest.mark.slow
@pytest.mark.timeout(6 * PATIENCE)
def test_two_processes_with_one_killed_make_the_bytes_of_one(bases, tmp_path):
    base = Store(bases).folder(Pretrained(chain=0, steps=150))
    alone = chain(tmp_path / "alone", base, processes=1, devices=2, kill=False)
    together = chain(tmp_path / "together", base, processes=2, devices=1, kill=True)
    assert together == alone


@pytest.mark.slow
@pytest.mark.timeout(8 * PATIENCE)
def test_four_processes_with_one_killed_make_their_own_bytes_and_ones_up_to_round_off(
    bases, tmp_path
):
    base = Store(bases).folder(Pretrained(chain=0, steps=150))
    whole = chain(tmp_path / "whole", base, processes=4, devices=1, kill=False)
    killed = chain(tmp_path / "killed", base, processes=4, devices=1, kill=True)
    assert killed == whole
    for devices in (1, 4):  # two orders of the same sums: what round-off makes of this training
        chain(tmp_path / f"{devices}", base, processes=1, devices=devices, kill=False)
    four, apart, one = (adapter(tmp_path / name) for name in ("whole", "4", "1"))
    round_off = np.linalg.norm(one - apart)
    assert 0 < np.linalg.norm(four - apart) < 10 * round_off < 0.01 * np.linalg.norm(apart)
