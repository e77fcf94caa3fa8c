"""The vocabulary of the pages: what the checked-in runs say, as text.

In a template of docs/templates/:

    {% set parts = run("which_part") %}
    {{ parts["attention"] | interval }}            mean ± half width that a claim states
    {{ parts["attention"] | number("loss") }}      the first number behind these words of it
    {{ parts.shown("kept", start="same") }}        the same of selected rows, over their seeds
    {{ parts.own(start="same") }}                  own effect, student less control, over chains
    {{ parts.total("kept", start="same") }}        sum over selected rows
    {{ parts.config.num_seeds }}                   a setting
    {{ stands(parts["attention"]) }}               nothing, or an error: this sentence needs it
    {{ given(".30", "arXiv 2507.14805") }}         a number of no table, and where it is from

A claim is named by its quantity or by the beginning of it that no other claim shares. Numbers are
text as the tables have it; `negated`, `signed`, `bare`, `fixed`, `percent` and `thousands` write
them otherwise.
"""

import ast
import csv
import dataclasses
import difflib
import functools
import io
import json
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

import experiments
from experiments.findings import statistics
from experiments.findings.claims import Claim
from experiments.frame import record
from experiments.language.kit import effects

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
CHECKED_IN = tuple(name for name in experiments.NAMES if (RESULTS / name).exists())
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
INTERVAL = re.compile(rf"({NUMBER.pattern}) (?:± ({NUMBER.pattern})|\[([^],]+), ([^]]+)\])")
VERDICTS = {"True": True, "False": False, "": None}


class Untold(ValueError):
    """What a template asks and the tables do not say."""


def read_claims(out: pathlib.Path) -> list[Claim]:
    """The lines of DIR/claims.csv.

    Raises:
        RunFolderError: if the run has not ended.
    """
    path = out / "claims.csv"
    if not (path.exists() and record.read_meta(out)["finished"]):
        raise record.RunFolderError(f"the run in {out} has not ended; run it, or --replot it")
    lines = csv.DictReader(io.StringIO(path.read_text()))
    return [
        Claim(**line | {"seeds": int(line["seeds"]), "holds": VERDICTS[line["holds"]]})
        for line in lines
    ]


def named(name: str, among: Sequence[str], where: str) -> str:
    """The one text that is `name`, or begins so.

    Raises:
        Untold: if there is none, or more than one.
    """
    found = [name] if name in among else [text for text in among if text.startswith(name)]
    if len(found) == 1:
        return found[0]
    near = found or difflib.get_close_matches(name, among, 3, 0.3)
    what = "several claims that begin" if found else "no claim that is named, or begins,"
    raise Untold(f"{where} has {what} {name!r}; near: {'; '.join(map(repr, near))}")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One checked-in run.

    Attributes:
        out: its folder.
        quoted: quantities of the claims that were asked for, which grows as templates ask.
    """

    out: pathlib.Path
    quoted: set[str] = dataclasses.field(default_factory=set)

    @property
    def name(self) -> str:
        """The experiment."""
        return self.out.name

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """All lines of its claims.csv."""
        return read_claims(self.out)

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """Its results.csv."""
        return record.read_table(self.out)

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """Its config.json: `config`, `command`, `commit`, versions, device."""
        return record.read_meta(self.out)

    @property
    def failed(self) -> list[Claim]:
        """The claims whose criterion is missed."""
        return [claim for claim in self.claims if claim.holds is False]

    @property
    def judged(self) -> list[Claim]:
        """The claims with a criterion that there were runs enough for."""
        return [claim for claim in self.claims if claim.holds is not None]

    @property
    def silent(self) -> list[Claim]:
        """The claims of arms that say nothing."""
        return [claim for claim in self.claims if says_nothing(claim)]

    def all_judged(self) -> list[Claim]:
        """The same claims, quoted: for a sentence that rests on all of them."""
        return [self[claim.quantity] for claim in self.judged]

    @property
    def commit(self) -> str:
        """Of the code that ran, short; all of them, if other code has resumed the run."""
        every = [self.meta["commit"], *self.meta.get("resumed_at", [])]
        return " and ".join(
            commit[:10] + (f"-{dirty}" if dirty else "")
            for commit, _, dirty in (one.partition("-") for one in every)
        )

    @property
    def command(self) -> str:
        """What made it, as it is typed, with its root seed where that is not the usual one."""
        return self.meta["command"]

    @property
    def config(self) -> dict[str, Any]:
        """Its settings."""
        return self.meta["config"]

    def __getitem__(self, quantity: str) -> Claim:
        """The claim of that name, or the only one that begins so.

        Raises:
            Untold: if there is none, or more than one.
        """
        known = {claim.quantity: claim for claim in self.claims}
        whole = named(quantity, list(known), self.name)
        self.quoted.add(whole)
        return known[whole]

    def select(self, **where: Any) -> pd.DataFrame:
        """The rows whose columns have these values; a text is compared with the cell as text.

        Raises:
            Untold: if there are none.
        """
        rows = self.rows
        for column, value in where.items():
            if column not in rows:
                raise Untold(f"{self.name}/results.csv has no column {column!r}")
            cells = rows[column].astype(str) if isinstance(value, str) else rows[column]
            rows = rows[cells == value]
        if rows.empty:
            raise Untold(f"{self.name}/results.csv has no row with {where}")
        return rows

    def shown(self, column: str, digits: int = 3, **where: Any) -> str:
        """Mean ± half width of a column over the seeds of the selected rows."""
        by_seed = self.select(**where).groupby("seed")[column].mean()
        return statistics.shown(by_seed, digits)

    def mean(self, column: str, **where: Any) -> float:
        """Mean of a column over the selected rows."""
        return float(self.select(**where)[column].mean())

    def total(self, column: str, **where: Any) -> float:
        """Sum of a column over the selected rows."""
        return float(self.select(**where)[column].sum())

    def own_by_chain(self, own: bool = True, **where: Any) -> list[float]:
        """Effect of each chain, averaged over its teachers, in rising order.

        Args:
            own: on the teachers' own traits, else on the others.
            **where: columns that name the arm.
        """
        found = effects.effects(self.select(**where), tuple(where))
        return sorted(effects.by_chain(found[found["own"] == own]))

    def own(self, digits: int = 2, **where: Any) -> str:
        """Own effect, mean ± half width over chains."""
        return statistics.shown(self.own_by_chain(**where), digits)

    def others(self, digits: int = 2, **where: Any) -> str:
        """Effect on the traits that the teacher does not have, mean ± half width over chains."""
        return statistics.shown(self.own_by_chain(own=False, **where), digits)


def text_of(said: Claim | str | float) -> str:
    """What a claim says here; a text or number as it is."""
    return said.here if isinstance(said, Claim) else str(said)


def interval(said: Claim | str, nth: int = 1) -> str:
    """The nth interval, `mean ± half` or `value [low, high]`.

    Raises:
        Untold: if there are fewer.
    """
    found = [match[0] for match in INTERVAL.finditer(text_of(said))]
    if len(found) < nth:
        raise Untold(f"{text_of(said)!r} has no interval {nth}")
    return found[nth - 1]


def number(said: Claim | str, behind: str = "", nth: int = 1) -> str:
    """The nth number behind these words, as it is written.

    Raises:
        Untold: if the words or the number are not there.
    """
    start = text_of(said).find(behind)
    found = NUMBER.findall(text_of(said)[start + len(behind) :])
    if start < 0 or len(found) < nth:
        raise Untold(f"{text_of(said)!r} has no number {nth} behind {behind!r}")
    return found[nth - 1]


def least(claim: Claim) -> str:
    """The smallest margin at which a claim of "no effect" still holds; empty where it has none."""
    found = re.search(r"from (\S+) on|holds alone: (\S+)\)|at no margin", claim.here)
    if found is None:
        return ""
    return found[1] or (f"±{found[2]}" if found[2] else "none")


def bounded(claim: Claim) -> str:
    """The interval of a claim of "no effect" and the smallest margin at which it would still hold.

    Raises:
        Untold: if there is no such margin.
    """
    if (margin := least(claim)) in ("", "none"):
        raise Untold(f"{claim.quantity!r} names no smallest margin ({claim.here})")
    return f"{interval(claim)} (within {margin.replace('%', ' %')})"


def negated(said: Claim | str) -> str:
    """An interval or number with the other sign: what "less by" and "below" are followed by."""
    text = text_of(said)
    found = INTERVAL.search(text)
    if found is None:
        return _turned(number(text))
    mean, half, low, high = found.groups()
    return (
        f"{_turned(mean)} ± {half}"
        if half
        else f"{_turned(mean)} [{_turned(high)}, {_turned(low)}]"
    )


def _turned(number: str) -> str:
    return number[1:] if number.startswith("-") else f"-{number.removeprefix('+')}"


def signed(said: Claim | str) -> str:
    """An interval with its sign, also a plus."""
    text = interval(said)
    return text if text.startswith("-") else f"+{text}"


def factor(said: Claim | str) -> str:
    """What an interval of log-odds multiplies the odds by, at its mean."""
    return f"{math.exp(float(number(interval(said)))):.1f}"


def says_nothing(claim: Claim) -> bool:
    """Whether students or controls of an arm hardly answer."""
    return claim.here.startswith("says nothing")


def heard(claim: Claim) -> str:
    """The interval of an arm, its values if they are too few for one, or that it says nothing."""
    if says_nothing(claim):
        return "says nothing"
    return interval(claim) if INTERVAL.search(claim.here) else claim.here


def bare(value: str | float) -> str:
    """A number without the zero before its point: .87."""
    return re.sub(r"^([-+]?)0\.", r"\1.", str(value))


def fixed(value: str | float, digits: int) -> str:
    """A number with so many digits behind its point."""
    return f"{float(value):.{digits}f}"


def percent(value: str | float, digits: int = 0) -> str:
    """A share in percent, without the sign."""
    return f"{100 * float(value):.{digits}f}"


def thousands(value: str | float) -> str:
    """A whole number with commas: 24,000."""
    return f"{round(float(value)):,}"


def stands(*claims: Claim) -> str:
    """Nothing; the sentence rests on these claims.

    Raises:
        Untold: if one of them does not hold.
    """
    return _judged(True, claims)


def falls(*claims: Claim) -> str:
    """Nothing; the sentence says that these claims fail.

    Raises:
        Untold: if one of them does not.
    """
    return _judged(False, claims)


def _judged(wanted: bool, claims: Sequence[Claim]) -> str:
    words = {True: "holds", False: "fails", None: "has no verdict"}
    for claim in claims:
        if claim.holds is not wanted:
            raise Untold(
                f"this sentence needs a claim that {words[wanted]}, and {claim.quantity!r} "
                f"{words[claim.holds]} ({claim.here}): say it otherwise"
            )
    return ""


def given(text: str, source: str) -> str:
    """A number of no table, with its source: others, the log, a criterion. Shown is the text.

    Raises:
        Untold: without a source.
    """
    if not source:
        raise Untold(f"the source of {text!r} is missing")
    return text


def constant(name: str, variable: str) -> Any:
    """A constant of an experiment's module, read without importing it.

    Raises:
        Untold: if the module has none.
    """
    for node in ast.parse(experiments.path_of(name).read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [variable]:
            return ast.literal_eval(node.value)
    raise Untold(f"experiments/**/{name}.py has no constant {variable}")


def measured(file: str) -> Any:
    """A file of benchmarks/results: JSON, or text. The last one if the name has a star.

    Raises:
        Untold: if there is none.
    """
    found = sorted((ROOT / "benchmarks" / "results").glob(file))
    if not found:
        raise Untold(f"benchmarks/results has no {file}")
    text = found[-1].read_text()
    return json.loads(text) if found[-1].suffix == ".json" else text


def cell(text: str) -> str:
    """A text as it can stand in a cell of a table."""
    return text.replace("|", "\\|")
