"""Reads optimised programs (HLO text): matrix products and collectives, loops counted.

`Compiled.cost_analysis` counts the body of a loop once, or says nothing at all, so it is of no use
for layers that are scanned.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)(?:e\w+)?\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
WHOLE = re.compile(r"s(32|64)\[\]")
# What gives arrays another name, or hands them on.
UNWRITTEN = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    rest: str  # operands and attributes


class Product(NamedTuple):
    """A matrix product."""

    shape: tuple[int, ...]  # of the result
    flops: float  # on one device, loops counted


class Collective(NamedTuple):
    """Something that devices tell one another."""

    kind: str
    type: str
    num_bytes: float  # of the result on one device
    times: int  # in one run of the program; loops of unknown length once

    @property
    def total(self) -> float:
        """Bytes in one run."""
        return float(self.num_bytes * self.times)


def arrays(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """Bytes and shape of every array in the text of a type."""
    found = []
    for dtype, dims in ARRAY.findall(text):
        shape = tuple(int(n) for n in dims.split(",") if n)
        bits = BITS.get(dtype) or int(re.sub(r"\D", "", dtype))
        found.append((math.prod(shape) * bits // 8, shape))
    return found


def size(text: str) -> int:
    """Bytes of all arrays in the text of a type."""
    return sum(num_bytes for num_bytes, _ in arrays(text))


class Program:
    """An optimised program: its computations, and how often each runs."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        entry, body = "", []
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                entry = name if line.startswith("ENTRY") else entry
                body = self.computations.setdefault(name, [])
            elif found := INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line)):
                body.append(Instruction(*found.groups()))
        self.times: dict[str, int] = {}
        self._count(entry, 1)

    def _count(self, name: str, times: int) -> None:
        self.times[name] = self.times.get(name, 0) + times
        for instruction in self.computations[name]:
            inner = times * (self._trips(instruction) if instruction.opcode == "while" else 1)
            for child in self._called(instruction):
                self._count(child, inner)

    def _called(self, instruction: Instruction) -> list[str]:
        names = "".join("".join(found) + " " for found in CALLED.findall(instruction.rest))
        return [name for name in re.findall(r"[\w.-]+", names) if name in self.computations]

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs; once where that is not known before.

        Compilers for CPUs and GPUs write it down. Those for TPUs leave the condition as it is: of a
        scan the one comparison of a counter, from 0, with its length.
        """
        if known := TRIPS.search(loop.rest):
            return int(known[1])
        found = CONDITION.search(loop.rest)
        lines = self.computations[found[1]] if found else []
        compared = [line for line in lines if line.opcode == "compare"]
        lengths = [x for x in lines if x.opcode == "constant" and WHOLE.match(x.type)]
        if len(compared) != 1 or len(lengths) != 1 or "direction=LT" not in compared[0].rest:
            return 1
        return int(lengths[0].rest.split(")")[0])

    def written_in_loops(self) -> list[str]:
        """Types of what the turns of loops write to memory, loops in loops included.

        What is inside of a fusion is not written, but its result.
        """
        found = []
        for loop in (i for body in self.computations.values() for i in body if i.opcode == "while"):
            waiting = self._called(loop)
            while waiting:
                for line in self.computations[waiting.pop()]:
                    found += [line.type] * (line.opcode not in UNWRITTEN)
                    waiting += [] if line.opcode in ("fusion", "while") else self._called(line)
        return found

    def run(self) -> Iterator[tuple[str, Instruction, int]]:
        """Every instruction that runs, with its computation and how often."""
        for name, times in self.times.items():
            for instruction in self.computations[name]:
                yield name, instruction, times

    @functools.cached_property
    def _types(self) -> dict[tuple[str, str], str]:
        return {(name, i.name): i.type for name, body in self.computations.items() for i in body}

    def _operands(self, computation: str, instruction: Instruction) -> list[str]:
        """Types of the operands."""
        inside, depth = "", 1
        for letter in instruction.rest:
            depth += (letter in "([{") - (letter in ")]}")
            if not depth:
                break
            inside += letter
        names = [word.lstrip("%") for word in re.findall(r"%?[\w.-]+", inside)]
        known = (self._types.get((computation, name)) for name in names)
        return [kind for kind in known if kind]

    def products(self) -> list[Product]:
        """All matrix products; those inside of a fused attention kernel are not seen."""
        found = []
        for computation, instruction, times in self.run():
            batch = _batch(instruction)
            if batch is None:
                continue
            (_, shape), *_ = arrays(instruction.type)
            operands = [arrays(t)[0][1] for t in self._operands(computation, instruction)[:2]]
            if len(operands) < 2:
                continue
            # Of b products [M, K] x [K, N] the three arrays have b M K, b K N and b M N numbers.
            sizes = math.prod(math.prod(s) for s in (*operands, shape))
            found.append(Product(shape, times * 2 * math.sqrt(sizes / batch)))
        return found

    def collectives(self) -> list[Collective]:
        """All collectives, the largest first."""
        found, seen = [], set()
        for computation, instruction, times in self.run():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            # One that runs in the background may stand in several fusions under one number.
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            if channel and (kind, channel[1]) in seen:
                continue
            seen.add((kind, channel and channel[1]))
            num_bytes = size(instruction.type)
            if instruction.opcode.endswith("-start") and kind != "all-reduce":
                # The type of these holds their operands as well.
                num_bytes -= sum(map(size, self._operands(computation, instruction)))
            found.append(Collective(kind, instruction.type, num_bytes, times))
        return sorted(found, key=lambda one: -one.total)


def _batch(instruction: Instruction) -> int | None:
    """Over how many products in one a matrix product goes; None if the instruction is none."""
    rest = instruction.rest
    if instruction.opcode == "dot":
        (_, shape), *_ = arrays(instruction.type)
        over = re.search(r"lhs_batch_dims=\{([\d,]*)\}", rest)
        return math.prod(shape[: len(over[1].split(","))]) if over and over[1] else 1
    if instruction.opcode == "custom-call" and re.search(
        r'target="__(cublas|onednn\$matmul)', rest
    ):
        return math.prod(arrays(instruction.type)[0][1][:-2])
    if instruction.opcode == "convolution":  # of TPUs: axes of a batch are windows that slide
        window = re.search(r"size=([\dx]+)", rest)
        labels = re.search(r"dim_labels=\w+->(\w+)", rest)
        if not window or not labels:
            return 1
        shape = arrays(instruction.type)[0][1]
        spatial = [shape[labels[1].index(str(i))] for i in range(window[1].count("x") + 1)]
        slides = zip(map(int, window[1].split("x")), spatial, strict=True)
        return math.prod(width for width, out in slides if out > 1)
    return None
