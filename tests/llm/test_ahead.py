"""The compilers asked without a device: extras, and skipped where they are not installed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks import ahead as table
from benchmarks import llm_shapes
from llm import ahead, plan
from llm.ahead import targets
from llm.training import finetune


def installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


needs_cuda = pytest.mark.skipif(
    not installed("jax_plugins.xla_cuda13"), reason='no compiler: pip install ".[ahead-cuda]"'
)
needs_tpu = pytest.mark.skipif(
    not installed("libtpu"), reason='no compiler: pip install ".[ahead-tpu]"'
)
LORA = table.Case("7B", "LoRA", "h200:8")


@needs_cuda
def test_the_documented_command_on_eight_gpus():
    target = ahead.target("h200:8")
    (step,) = ahead.ask(target, LORA.job())
    assert not step.error
    assert step.mesh == {"data": 1, "fsdp": 8, "tensor": 1}
    assert step.num_bytes <= 12e9
    assert step.ratio <= 1.06
    assert step.twice == 0
    assert (
        step.moved <= 36e9
    )  # forward and backward pass gather 14 GB of weights each, and the head
    assert "fits: " in ahead.describe(step, target)


@pytest.mark.slow
@needs_cuda
@pytest.mark.parametrize(
    ("machine", "axes"),
    [("h200:1", (1, 1, 1)), ("h200:8", (1, 8, 1)), ("h200:8", (8, 1, 1)), ("h200:8", (1, 2, 4))],
)
def test_the_plan_is_what_the_compiler_says(machine, axes):
    job = dataclasses.replace(LORA.job(), axes=axes)
    (step,) = ahead.ask(ahead.target(machine), job)
    assert not step.error
    found = plan.training(job.config, job.training, length=job.length, axes=axes)
    assert found.total == pytest.approx(step.num_bytes, rel=0.1)


@pytest.mark.slow
@needs_cuda
def test_one_gpu_holds_sixty_four_rows():
    target = ahead.target("h200:1")
    (step,) = ahead.ask(target, LORA.job())
    assert step.num_bytes <= 70e9 < target.room
    assert step.ratio <= 1.06


@pytest.mark.slow
@needs_cuda
def test_more_tensor_shards_than_key_heads_compile():
    config = dataclasses.replace(llm_shapes.LARGER, num_layers=2)
    job = dataclasses.replace(LORA.job(), config=config, axes=(1, 1, 8))
    (step,) = ahead.ask(ahead.target("h200:8"), job)
    assert not step.error


@pytest.mark.slow
@needs_cuda
def test_drawing_on_four_gpus_tells_little():
    *_, token = ahead.ask(ahead.target("h200:4"), table.Case("7B", "sampling", "h200:4").job())
    assert not token.error
    assert token.moved < 0.5e9


# Of two layers whose kernels are larger than all else: 65,536 numbers, of the cache 49,152.
WRITTEN = """
import math
import jax
from llm import ahead, models
from llm.ahead import asking, hlo
from llm.training import lora

config = models.ModelConfig(
    vocab_size=2048, width=256, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=64,
    mlp_width=512, rope=models.Rope(dim=64),
)
adapters = lora.LoraConfig(rank=8)
job = ahead.Drawing(config=config, adapters=adapters, rows=8, prompt=16, new=8)
asking._answer_for_cudnn()
programs = job.programs(ahead.target("h200:1").devices(), math.inf)
start = next(programs)
draw = programs.send(start.function.lower(*start.arguments).compile())
text = hlo.Program(draw.function.lower(*draw.arguments).compile().as_text())
shapes = [shape for kind in text.written_in_loops() for _, shape in hlo.arrays(kind)]
assert (8, 2048) in shapes, "the logits"
print([shape for shape in shapes if math.prod(shape) >= 65536])
"""


@needs_cuda
def test_drawing_with_adapters_writes_no_weights_on_a_gpu():
    """Its compiler would put each kernel beside the adapter's A, anew for every token."""
    done = subprocess.run(
        [sys.executable, "-c", WRITTEN],
        env=dict(ahead.target("h200:1").environment()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@needs_tpu
def test_sixteen_small_chips_hold_a_7b():
    target = ahead.target("v5e:4x4")
    (step,) = ahead.ask(target, LORA.job())
    assert not step.error
    assert step.num_bytes <= target.room


@pytest.mark.slow
@needs_tpu
def test_each_host_of_sixteen_chips_draws_by_itself():
    """Asked of four of sixteen chips the compiler knew no collectives."""
    job = table.Case("1.5B", "sampling", "v5e:4x4").job()
    prefill, drawing = ahead.ask(ahead.target("v5e:4x4"), job)
    assert not prefill.error
    assert not drawing.error
    assert drawing.mesh == {"data": 4, "fsdp": 1, "tensor": 1}
    assert drawing.moved < 1e6


# Nothing but scores ends in (384, 384).
SCORES = """
import math
import jax
from llm import ahead, models
from llm.ahead import hlo
from llm.training import Training

config = models.ModelConfig(
    vocab_size=2048, width=256, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=64,
    mlp_width=512, rope=models.Rope(dim=64), max_positions=512,
)
training = Training(steps=4, batch_size=8, optimizer="adamw", dtype={dtype!r})
job = ahead.Tuning(config=config, training=training, length=384)
step = next(job.programs(ahead.target("v5e:2x2").devices(), math.inf))
text = step.function.lower(*step.arguments).compile().as_text()
shapes = {{shape for line in text.splitlines() for _, shape in hlo.arrays(line)}}
print(text.count("splash") > 0, any(shape[-2:] == (384, 384) for shape in shapes))
"""


@needs_tpu
@pytest.mark.parametrize(("dtype", "said"), [("bfloat16", "True False"), ("float32", "False True")])
def test_training_on_a_tpu_stores_no_scores(dtype, said):
    """In half precision; in float32 it does, so the test can fail."""
    done = subprocess.run(
        [sys.executable, "-c", SCORES.format(dtype=dtype)],
        env=dict(ahead.target("v5e:2x2").environment()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == said


@needs_tpu
def test_a_host_of_a_slice_has_four_chips():
    assert targets.host(ahead.target("v5e:4x4")).shape == "2x2"
    assert targets.host(ahead.target("v5p:2x2x1")).shape == "2x2x1"
    assert targets.host(ahead.target("v5e:1x1")).shape == "1x1"


def test_a_host_of_gpus_is_one_row_of_them():
    assert [targets.host(ahead.target(f"h200:{shape}")).shape for shape in ("2x8", "8")] == [
        "8"
    ] * 2


def test_machines_and_what_is_none():
    target = ahead.target("h200:8")
    assert (target.memory, target.room) == (151397597184, 0.75 * 151397597184)
    assert not target.is_tpu
    assert target.environment()["JAX_PLATFORMS"] == "cpu"
    assert ahead.target("v5e:4x4").is_tpu
    assert ahead.target(f"{targets.TARGETS / 'h100.txtpb'}:2").memory == 84942979072
    for text in ("h200", "h200:", "h200:x", "h201:8", "v5e:-1", "h200:1x2x3", "missing.txtpb:8"):
        with pytest.raises(ValueError, match="needs a machine and its size, as in h200:8"):
            ahead.target(text)


@pytest.mark.skipif(installed("jax_plugins.xla_cuda13"), reason="the compiler is installed")
def test_without_a_compiler_one_line_says_what_to_install():
    (answer,) = ahead.ask(ahead.target("h200:8"), LORA.job())
    said = ahead.describe(answer, ahead.target("h200:8"))
    assert 'pip install ".[ahead-cuda]"' in said
    assert "\n" not in said


def test_a_compiler_that_takes_too_long_is_ended():
    (answer,) = ahead.ask(ahead.target("h200:8"), LORA.job(), seconds=0.01)
    assert answer.error == "not compiled within 0 s"
    assert answer.late
    assert table.measure(LORA, seconds=0.01) is None, "no row of the table says so"


def test_flags_of_a_case_are_those_of_the_command():
    row = {"flags": {"accumulate": 4, "remat": True}}
    assert table.flags_of(row) == "--accumulate 4 --remat"
    assert finetune.Limits(**row["flags"]).remat


def test_the_table_is_that_of_the_rows():
    """The checked-in table, which the page takes in, was written from the checked-in rows."""
    tables = sorted(table.RESULTS.glob("*-ahead.md"))
    if not tables:
        pytest.skip("no table is checked in yet")
    rows = tables[-1].with_suffix(".jsonl").read_text().splitlines()
    assert f"\n\n{table.table(map(json.loads, rows))}\n" in tables[-1].read_text()
