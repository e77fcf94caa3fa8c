"""Asks a compiler in a process of its own: `python -m llm.ahead.asking` answers in JSON lines."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from .hlo import Program as Text
from .programs import Job
from .targets import Target, host

SECONDS = 600.0  # of one question, however many programs it has
SHOWN = 3  # collectives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a compiler says of one program.

    Attributes:
        name: of the program.
        mesh: devices on its axes.
        seconds: of the compilation.
        error: why it does not compile; all below is zero then.
        late: the error is that the time was over, which says nothing about the program.
        num_bytes: that one device holds.
        ratio: operations of products on all devices over those that the task needs.
        moved: bytes of the results of collectives on one device, in one run or one token.
        unit: what one run is.
        largest: collectives: kind, type, times and bytes in all.
        twice: arrays of the state that come back elsewhere, so that it is compiled again.
    """

    name: str
    mesh: dict[str, int]
    seconds: float
    error: str = ""
    late: bool = False
    num_bytes: int = 0
    ratio: float = 0.0
    moved: float = 0.0
    unit: str = ""
    largest: list[tuple[str, str, int, float]] = dataclasses.field(default_factory=list)
    twice: int = 0


def ask(target: Target, job: Job, seconds: float = SECONDS) -> list[Answer]:
    """What the compiler for a machine says of the programs of a task, in order.

    The last one has an error if there is one: not enough memory, say, or no compiler installed.
    """
    start, late = time.monotonic(), False
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.asking"],
            input=pickle.dumps((target, job)),
            capture_output=True,
            env=dict(target.environment()),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as stopped:
        output, failure, late = stopped.stdout or b"", f"not compiled within {seconds:.0f} s", True
    else:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        output = done.stdout
        known = said[-1].startswith("llm.settings.RunError: ")
        last = said[-1].removeprefix("llm.settings.RunError: ")
        failure = last if known else f"the compiler ended with {done.returncode}: {last}"
        failure *= bool(done.returncode)
    lines = output.decode().splitlines()
    answers = [_read(line) for line in lines if line.startswith("{")]
    if failure:
        spent = time.monotonic() - start
        answers.append(Answer(name="program", mesh={}, seconds=spent, error=failure, late=late))
    return answers


def _read(line: str) -> Answer:
    """An answer as JSON, which has no tuples."""
    fields = json.loads(line)
    return Answer(**fields | {"largest": [tuple(one) for one in fields["largest"]]})


def describe(answer: Answer, target: Target) -> str:
    """A line of what there is to know, and one for each large collective."""
    head = f"{answer.name:14s}"
    if answer.error:
        return f"{head} does not compile ({answer.seconds:.0f} s): {answer.error}"
    fits = "fits" if answer.num_bytes <= target.room else "DOES NOT FIT"
    twice = f"; compiled twice, for {answer.twice} arrays move" if answer.twice else ""
    line = (
        f"{head} {fits}: {answer.num_bytes / 1e9:.2f} GB a device of {target.memory / 1e9:.1f}, "
        f"{target.room / 1e9:.1f} of them JAX's; products {answer.ratio:.2f} x useful; collectives "
        f"{answer.moved / 1e9:.2f} GB a {answer.unit}; compiled in {answer.seconds:.0f} s{twice}"
    )
    shown = [
        f"{'':14s} {kind} {what} x {times}: {num_bytes / 1e9:.2f} GB"
        for kind, what, times, num_bytes in answer.largest
    ]
    return "\n".join([line, *shown])


def answers(target: Target, job: Job) -> Iterator[Answer]:
    """The programs of a task, compiled in this process."""
    import jax

    _answer_for_cudnn()
    devices = (host(target) if job.by_host else target).devices()
    programs, compiled = job.programs(devices, target.room), None
    while True:
        try:
            program = programs.send(compiled)
        except StopIteration:
            return
        start = time.monotonic()
        try:
            compiled = program.function.lower(*program.arguments).compile()
        except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
            said = " ".join(_last_words(str(error)).split())[:300]
            yield Answer(name=program.name, mesh={}, seconds=time.monotonic() - start, error=said)
            return
        yield _answer(program, compiled, time.monotonic() - start)


def _answer(program: Any, compiled: Any, seconds: float) -> Answer:
    import jax

    memory, text = compiled.memory_analysis(), Text(compiled.as_text())
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    used += memory.generated_code_size_in_bytes - memory.alias_size_in_bytes
    given = jax.tree.leaves(compiled.input_shardings[0])
    mesh = next(place.mesh for place in given if hasattr(place, "mesh"))
    collectives = text.collectives()
    largest = [(c.kind, _short(c.type), c.times, c.total) for c in collectives[:SHOWN]]
    return Answer(
        name=program.name,
        mesh=dict(mesh.shape),
        seconds=seconds,
        num_bytes=used,
        ratio=sum(p.flops for p in text.products()) * mesh.size / program.useful,
        moved=sum((c.total for c in collectives), 0.0),
        unit=program.unit,
        largest=largest,
        twice=_moving(program, compiled),
    )


def _last_words(message: str) -> str:
    """The line that says what is wrong; the compiler may put a traceback before and behind it."""
    lines = message.splitlines()
    return next((line for line in lines if re.match(r"[\w.]*(Error|EXHAUSTED)", line)), lines[0])


def _moving(program: Any, compiled: Any) -> int:
    """Arrays of the state that a program gives back in another place than it took them from."""
    import jax

    if program.kept is None:
        return 0
    shapes = jax.tree.leaves(program.arguments[program.kept])
    taken = jax.tree.leaves(compiled.input_shardings[0][program.kept])
    given = jax.tree.leaves(compiled.output_shardings)  # the state comes first
    pairs = zip(taken, given, shapes, strict=False)
    return sum(not one.is_equivalent_to(other, x.ndim) for one, other, x in pairs)


def _short(kind: str) -> str:
    """The text of a type without layouts."""
    text = re.sub(r"\{[^}]*\}", "", kind)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _answer_for_cudnn() -> None:
    """JAX asks for the version of cuDNN before it lowers attention; the target text states it."""
    try:
        import jax._src.cudnn.fused_attention_stablehlo as attention
    except ImportError:  # then attention without a kernel is compiled
        return
    attention.check_cudnn_version = lambda: 91200


if __name__ == "__main__":
    for found in answers(*pickle.loads(sys.stdin.buffer.read())):
        print(json.dumps(dataclasses.asdict(found)), flush=True)
