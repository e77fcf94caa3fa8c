"""A tiny training run as a process of its own, for tests that kill it or start several.

Appends a line per step to a file: the step and its loss as a hexadecimal float.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from llm import distributed, models, sharding
from llm.training import objectives, train
from llm.training.batches import Batches, Example
from llm.training.checkpoint import Checkpoints

CONFIG = models.ModelConfig(
    vocab_size=64, width=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16, mlp_width=64
)


def examples(count=24):
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 30, count)
    return [
        Example(rng.integers(0, 64, n), (rng.random(n) < 0.6).astype(np.float32)) for n in lengths
    ]


def run(folder=None, num_steps=8, every=3, axes=(None, None, 1), config=None, report=None):
    """Train from the last checkpoint in `folder`, if any; returns the state and the losses."""
    mesh = sharding.make_mesh(*axes)
    key, batch_size = jax.random.key(1), 8
    batches = Batches(
        examples=examples(),
        batch_size=batch_size,
        key=key,
        window=distributed.process_window(mesh, batch_size),
    )
    optimizer = train.make_optimizer("adamw", 1e-2, weight_decay=0.1, clip_norm=1.0)
    student = objectives.full_student(CONFIG)
    step = train.make_train_step(objectives.completion_loss(student, chunk=8), optimizer)

    def init():
        return train.init_state(models.init(CONFIG, key=jax.random.key(0)), optimizer)

    layout = sharding.shardings(mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=layout)()
    arguments = {"key": key, "put": distributed.make_put(mesh, batch_size), "report": report}
    if folder is None:
        return train.fit(step, state, batches=batches, num_steps=num_steps, **arguments)
    about = config or {"run": 1}
    with Checkpoints(folder, about, every=every, report=lambda _: None) as checkpoints:
        state = checkpoints.restore(state, key)
        return train.fit(
            step, state, batches=batches, num_steps=num_steps, checkpoints=checkpoints, **arguments
        )


def start(log, *arguments, **environment):
    """Popen of this file; its optimiser passes are off, which halves the time to compile."""
    fixed = {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    fixed["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, __file__, "--log", log, *arguments]
    return subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **fixed, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read(log):
    """The logged (step, loss) pairs."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    return [(int(step), float.fromhex(loss)) for step, loss in map(str.split, lines)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path)
    parser.add_argument("--folder")
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--processes", action="store_true")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", given.devices)
    if given.processes:
        distributed.start()

    def show(step, metrics):
        with open(given.log, "a") as file:
            file.write(f"{step} {metrics['loss'].hex()}\n")

    run(given.folder, given.num_steps, report=show)
