"""Values of command lines: every number is read, bounded and refused in one place.

parser = Parser(prog="python -m llm")
parser.add_argument("--batch-size", type=whole(1))
parser.add_argument("--temperature", type=real(minimum=0))
parser.add_argument("--seed", type=SEED)
"""

import argparse
import dataclasses
import math
from typing import NoReturn

LARGEST = 2**32 - 1  # of whole numbers: no count here comes near it, and keys take no larger seed
SHOWN = 40  # characters of a value that is refused


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message behind the program's name, without the usage block."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


@dataclasses.dataclass(frozen=True)
class Number:
    """Reads a number of a command line; NaN and infinity are none.

    Attributes:
        kind: int or float.
        minimum: smallest value; None for any.
        above: what the value must exceed; None for nothing.
        maximum: largest value; None for any, of whole numbers LARGEST.
    """

    kind: type
    minimum: int | float | None = None
    above: int | float | None = None
    maximum: int | float | None = None

    def __call__(self, text: str) -> int | float:
        """The number that the text says.

        Raises:
            argparse.ArgumentTypeError: it says none, or one out of bounds.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        low, high = self.minimum, self.maximum
        fits = (low is None or value >= low) and (high is None or value <= high)
        if not (fits and (self.above is None or value > self.above) and abs(value) < math.inf):
            raise argparse.ArgumentTypeError(f"got {shown(text)}, needs {self}")
        if self.kind is int and value > LARGEST:
            raise argparse.ArgumentTypeError(f"got {shown(text)}, the largest is {LARGEST}")
        return value

    def __str__(self) -> str:
        """Which numbers it takes, in words."""
        text = "a whole number" if self.kind is int else "a number"
        if self.above is not None:
            text = f"{text} above {self.above:g}"
            return text if self.maximum is None else f"{text}, at most {self.maximum:g}"
        if self.minimum is not None and self.maximum is not None:
            return f"{text} from {_plain(self.minimum)} to {_plain(self.maximum)}"
        if self.minimum is not None:
            return f"{text} of at least {_plain(self.minimum)}"
        return text if self.maximum is None else f"{text} of at most {_plain(self.maximum)}"


def _plain(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def whole(minimum: int | None = 0, maximum: int | None = None) -> Number:
    """Whole numbers from `minimum` to `maximum`."""
    return Number(int, minimum=minimum, maximum=maximum)


def real(
    minimum: int | float | None = None,
    *,
    above: int | float | None = None,
    maximum: int | float | None = None,
) -> Number:
    """Finite numbers from `minimum`, or above a bound, to `maximum`."""
    return Number(float, minimum=minimum, above=above, maximum=maximum)


SEED = whole(0, LARGEST)  # `jax.random.key` takes a larger one for that of its last 32 bits


def shown(text: str) -> str:
    """A value of the command line in a message: quoted, and cut if it is long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
