"""What every device of a mesh computes and tells the others, read from the compiled programs."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import ahead, engines, models, sharding
from llm.ahead import hlo
from llm.models import attention
from llm.training import Training, finetune, lora

# Only the vocabulary has the factor 13, only rows and positions have 3.
CONFIG = models.ModelConfig(
    vocab_size=8 * 13,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    mlp_width=64,
    tie_embeddings=False,
    rope=models.Rope(dim=8),
)
HOW = Training(steps=4, batch_size=12, optimizer="adamw", clip_norm=1.0)
LORA = Training(
    steps=4, batch_size=12, optimizer="adamw", adapters=lora.LoraConfig(rank=2, alpha=2.0)
)
MESHES = [(4, 1, 1), (1, 4, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4)]


@functools.cache
def programs(job, count):
    """The programs of a task on simulated devices, compiled."""
    found, compiled = [], None
    generator = job.programs(jax.devices()[:count], math.inf)
    while True:
        try:
            program = generator.send(compiled)
        except StopIteration:
            return found
        compiled = program.function.lower(*program.arguments).compile()
        found.append((program, compiled, hlo.Program(compiled.as_text())))


def step(training, axes, config=CONFIG):
    job = ahead.Tuning(config=config, training=training, axes=axes, length=16, weighted=8)
    ((_, _, text),) = programs(job, math.prod(axes))
    return text


def flops(text):
    return sum(product.flops for product in text.products())


@pytest.mark.parametrize("training", [HOW, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("axes", MESHES)
def test_a_device_computes_its_rows_only(training, axes):
    alone, one_of_four = flops(step(training, (1, 1, 1))), flops(step(training, axes))
    # Of adapters, A is whole on the tensor axis; all rows on every device would be twice as much.
    assert alone / 4 <= one_of_four * 1.001
    assert one_of_four <= 1.3 * alone / 4


@pytest.mark.parametrize("axes", MESHES)
def test_the_kernel_of_tpus_works_on_a_devices_own_rows_and_heads(axes):
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (12, 24, 4, 8))
    k, v = (jax.random.normal(key, (12, 4, 24, 8)) for key in keys[1:])
    visible = jnp.tril(jnp.ones((12, 24, 24), bool))
    attend = functools.partial(attention.attend, visible=visible, causal=True)
    mesh = sharding.make_mesh(*axes, devices=jax.devices()[:4])
    run = jax.jit(sharding.on(mesh, lambda q, k, v: attend(q, k, v=v, implementation="splash")))
    placed = [sharding.split_rows(mesh, x) for x in (q, k, v)]
    np.testing.assert_allclose(run(*placed), attend(q, k, v=v), atol=1e-5)
    gathered = hlo.Program(run.lower(*placed).compile().as_text()).collectives()
    assert not [found for found in gathered if found.kind != "all-to-all"], gathered


# Two key heads on four devices.
ODD = dataclasses.replace(CONFIG, num_heads=6, num_kv_heads=2)


@pytest.mark.parametrize("training", [HOW, LORA], ids=["full", "lora"])
def test_where_heads_do_not_divide_rows_do(training):
    alone, one_of_four = (
        flops(step(training, axes, config=ODD)) for axes in ((1, 1, 1), (1, 1, 4))
    )
    # All heads on every device would be 1.4 times as much; A is whole on each, as above.
    assert one_of_four <= 1.3 * alone / 4


def test_drawing_where_heads_do_not_divide_gathers_no_weights():
    job = ahead.Drawing(config=ODD, axes=(1, 1, 4), rows=12, prompt=16, new=8, dtype="float32")
    _, (program, _, text) = programs(job, 4)
    keys = program.arguments[1].cache.keys[0]
    assert keys.sharding.shard_shape(keys.shape)[:2] == (12 / 4, 2), "rows of its own, all heads"
    kernels = {x.shape for x in jax.tree.leaves(program.arguments[0]) if x.ndim == 2}
    told = [shape for one in text.collectives() for _, shape in hlo.arrays(one.type)]
    assert told, "sums at least"
    assert not kernels & {*told, *(shape[::-1] for shape in told)}
    assert max(map(math.prod, told)) < 12 * CONFIG.vocab_size < math.prod(keys.shape), "nor logits"


@pytest.mark.parametrize("training", [HOW, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("axes", MESHES)
def test_no_logits_are_told(training, axes):
    text = step(training, axes)
    assert text.collectives(), "gradients at least are summed"
    for one in text.collectives():
        for _, shape in hlo.arrays(one.type):
            has = [any(n % factor == 0 for n in shape) for factor in (13, 3)]
            assert not all(has), f"{one.kind} of {shape}"


def test_products_are_those_of_the_usual_count():
    """On one device: 6 N a token, six products of attention, and its scores made again."""
    job = ahead.Tuning(config=CONFIG, training=HOW, axes=(1, 1, 1), length=16, weighted=8)
    scores = 2 * HOW.batch_size * 16 * 16 * CONFIG.num_heads * CONFIG.head_dim
    expected = job.useful + 7 * CONFIG.num_layers * scores
    assert flops(step(HOW, (1, 1, 1))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("axes", [(1, 4, 1), (1, 2, 2)])
def test_a_step_is_compiled_once(axes):
    job = ahead.Tuning(config=CONFIG, training=HOW, axes=axes, length=16, weighted=8)
    ((program, _, _),) = programs(job, 4)
    state, batch, _, frozen = program.arguments
    zeros = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), tree
    )
    state = zeros(state)
    for _ in range(3):
        state, _ = program.function(state, zeros(batch), jax.random.key(0), frozen)
    assert program.function._cache_size() == 1


def test_drawing_gathers_no_weights():
    job = ahead.Drawing(config=CONFIG, rows=12, prompt=16, new=8, dtype="float32")
    _, (_, _, text) = programs(job, 4)
    assert not text.collectives()
    assert flops(text) > 0


def test_drawing_with_adapters_writes_no_weights():
    """Put beside the adapter's A, a kernel would be written again for every token."""
    adapters = lora.LoraConfig(rank=2, alpha=2.0)
    job = ahead.Drawing(
        config=CONFIG, adapters=adapters, rows=12, prompt=16, new=8, dtype="float32"
    )
    _, (_, _, text) = programs(job, 4)
    shapes = [shape for kind in text.written_in_loops() for _, shape in hlo.arrays(kind)]
    assert (3, CONFIG.vocab_size) in shapes, "the logits of a device's rows"
    # The smallest kernel; nothing else of three rows has two axes of so many numbers.
    smallest = CONFIG.width**2
    assert not [shape for shape in shapes if len(shape) == 2 and math.prod(shape) >= smallest]


@pytest.mark.parametrize("training", [HOW, LORA], ids=["full", "lora"])
def test_the_head_is_gathered_once(training):
    """Four chunks of positions, on devices that each hold a quarter of the head."""
    job = ahead.Tuning(
        config=CONFIG,
        training=training,
        limits=finetune.Limits(chunk=6),
        axes=(1, 4, 1),
        length=16,
        weighted=8,
    )
    ((_, _, text),) = programs(job, 4)
    logits = [times for _, line, times in text.run() if line.type.startswith("f32[6,104]")]
    assert 4 in logits, "of a chunk"
    gathers = [c for c in text.collectives() if c.kind == "all-gather" and "104" in c.type]
    assert gathers
    assert all(gather.times == 1 for gather in gathers), gathers


def test_the_mesh_that_draws_has_copies_where_they_fit():
    devices = jax.devices()[:4]
    config = models.ModelConfig()
    num_bytes = sum(
        leaf.size * 2
        for leaf in jax.tree.leaves(
            jax.eval_shape(lambda: models.init(config, key=jax.random.key(0)))
        )
    )

    def shape(room, axes=(None, None, 1)):
        mesh = engines.sampling_mesh(config, devices, axes=axes, dtype="bfloat16", room=float(room))
        return tuple(mesh.shape.values())

    assert shape(math.inf) == shape(2 * num_bytes) == (4, 1, 1)
    assert shape(1.9 * num_bytes) == (2, 1, 2)
    assert shape(0.1 * num_bytes) == (1, 1, 4)
    assert shape(math.inf, (1, 2, 2)) == (1, 2, 2), "what is asked for is what is done"


# A scan as compilers for TPUs leave it, and a loop whose end is not known before.
OF_TPU = """\
HloModule t, is_scheduled=true

%layers (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[8,8]{1,0:T(8,128)(2,1)} constant({...})
  %y = bf16[4,8]{1,0:T(8,128)(2,1)} convolution(%x, %w), dim_labels=bf_io->bf
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %one = s32[]{:T(128)} constant(1)
  %j = s32[]{:T(128)} add(%i, %one)
  ROOT %r = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%j, %y)
}

%more (q: (s32[], bf16[4,8])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%q), index=0
  %n = s32[]{:T(128)} constant(28)
  ROOT %lt = pred[]{:T(512)} compare(%k, %n), direction=LT, backend_config={"flag_configs":[]}
}

%unfinished (u: (s32[], bf16[4,8])) -> pred[] {
  %u = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%u), index=0
  %n = s32[]{:T(128)} constant(28)
  %m = s32[]{:T(128)} constant(3)
  %c = pred[]{:T(512)} compare(%k, %n), direction=LT
  %d = pred[]{:T(512)} compare(%k, %m), direction=GT
  ROOT %e = pred[]{:T(512)} and(%c, %d)
}

ENTRY %main (s: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %s = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %l = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) while(%s), condition=%more, body=%layers
  ROOT %z = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) while(%l), condition=%unfinished, \
body=%layers
}
"""


def test_loops_without_a_written_length_are_counted():
    (product,) = hlo.Program(OF_TPU).products()
    # A layer is run 28 times by the scan and, as far as is known, once by the other loop.
    assert (product.shape, product.flops) == ((4, 8), (28 + 1) * 2 * 4 * 8 * 8)


TEXT = """\
HloModule m, entry_computation_layout={(f32[4,8]{1,0})->f32[4,2]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %w = bf16[8,8]{1,0} constant({...})
  %y = bf16[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %g = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%y), channel_id=1, dimensions={0}
  %h = bf16[16,8]{1,0} all-gather-done(%g)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %r = (s32[], bf16[4,8]{1,0}) tuple(%i, %y)
}

%cond (p: (s32[], bf16[4,8])) -> pred[] {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  ROOT %t = pred[] constant(true)
}

ENTRY %main (x: f32[3,4,8], v: f32[3,8,2]) -> f32[3,4,2] {
  %x = f32[3,4,8]{2,1,0} parameter(0)
  %v = f32[3,8,2]{2,1,0} parameter(1)
  %s = (s32[], /*index=1*/bf16[4,8]{1,0:T(8,128)(2,1)}) tuple()
  %l = (s32[], bf16[4,8]{1,0}) while(%s), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %d = f32[3,4,2]{2,1,0} dot(%x, %v), lhs_batch_dims={0}, lhs_contracting_dims={2}, \
rhs_batch_dims={0}, rhs_contracting_dims={1}
  ROOT %z = f32[3,4,2]{2,1,0} all-reduce(%d), to_apply=%add, channel_id=2
}
"""


def test_loops_are_counted():
    text = hlo.Program(TEXT)
    assert [(p.shape, p.flops) for p in text.products()] == [
        ((3, 4, 2), 3 * 2 * 4 * 8 * 2),
        ((4, 8), 5 * 2 * 4 * 8 * 8),
    ]
    gather, reduce = text.collectives()
    assert (gather.kind, gather.num_bytes, gather.times) == ("all-gather", 16 * 8 * 2, 5)
    assert (reduce.kind, reduce.total) == ("all-reduce", 3 * 4 * 2 * 4)


def test_arrays_of_a_type():
    kind = "(f32[2,3]{1,0}, s32[], bf16[4]{0:T(128)}, pred[8], f8e4m3fn[5])"
    assert hlo.arrays(kind) == [(24, (2, 3)), (4, ()), (8, (4,)), (8, (8,)), (5, (5,))]
