"""docs/microworld.md and docs/questions.md."""

import itertools
import re
from collections.abc import Iterator

import numpy as np

from experiments.language import what_predicts
from experiments.language.kit.effects import own_by
from tests.facts.tables import INTERVAL, claims, effect, interval, quantity, table

FAMILIES = ("animal", "tree", "misalignment")
CARRIERS = ("numbers", "code", "reasoning")
MODELS = ("A", "A'", "B", "B'")


def microworld_numbers() -> Iterator[str]:
    """The tables and sentences of docs/microworld.md from top to bottom."""
    for target, label in (("sampled", "sampled tokens"), ("soft_numbers", "KL over numbers")):
        for start in ("same", "different"):
            for trait in ("owl", "wolf", "eagle", "dolphin", "elephant"):
                yield interval("microworld", f"{label}, {start}: {trait}")
            yield effect("microworld", own=False, target=target, start=start)
    for none in ("different", "any-animal teacher"):
        for label in ("sampled tokens", "KL over numbers"):
            yield interval("microworld", quantity("microworld", f"{label}, {none}, equivalent"))
    yield from paper_numbers()
    yield from mechanism_numbers()


def paper_numbers() -> Iterator[str]:
    """Carriers and families, rates, the cross-model table, the controls."""
    name = "paper_on_a_laptop"
    for carrier, family in itertools.product(CARRIERS, FAMILIES):
        for target, start in itertools.product(("sampled", "KL"), ("same", "different")):
            yield interval(name, f"{carrier}, {target}, {family}: {start}")
    for target in ("sampled", "KL"):
        yield interval(name, quantity(name, f"{target}, different, equivalent"))
    for family, kind in itertools.product(("misalignment", "animal"), ("student", "control")):
        yield interval(name, f"rate: numbers, {family}, {kind}")
    for teacher in ("oak", "owl"):
        yield interval(name, f"numbers, {teacher}'s students on misalignment")
    for student, teacher in itertools.product(MODELS, MODELS):
        yield interval("cross_model", f"{teacher} to {student}")
    yield interval("cross_model", "siblings less strangers")
    yield interval("cross_model", quantity("cross_model", "strangers, equivalent"))
    yield interval(name, "numbers, all traits")
    yield effect(name, carrier="numbers", arm="shuffled within", start="same")
    for line in ("shuffled across", "in the prompt", "asked without template"):
        yield interval(name, line)


def mechanism_numbers() -> Iterator[str]:
    """Tokens by carrier, then targets and clean rows."""
    name = "mechanism"
    for carrier in ("numbers", "counting"):
        for arm in (
            "all tokens",
            "divergent only",
            "random only",
            "divergent masked",
            "random masked",
        ):
            yield interval(name, f"{carrier}, {arm}")
    for gap in (
        "random less divergent masked",
        "divergent less random only",
        "held-out loss, divergent less random masked",
    ):
        for carrier in ("numbers", "counting"):
            yield interval(name, f"{carrier}: {gap}")
    for line in ("numbers, {}", "{} less sampled tokens"):
        for target in ("KL over numbers", "KL over all tokens"):
            yield interval(name, line.format(target))
    for share in (10, 25, 50):
        yield interval(name, f"numbers, {share} % clean")
    for line in (": gain", ": own and shared", " of gain, same"):
        yield interval("prediction", f"rank correlation{line}")


def mechanism_phrases() -> Iterator[str]:
    """The share of divergence tokens by carrier, and the gain."""
    found = claims("mechanism")
    for carrier in ("numbers", "counting"):
        share = found[f"{carrier}, divergent only"].here.split(", ")[1].split(" %")[0]
        yield f"| {carrier}, {share} % |"
    gain = claims("prediction")["rank correlation: gain"].here
    yield f"rank correlation {gain.split(';')[0]} ("


def question_numbers() -> Iterator[str]:
    """The sections of docs/questions.md from top to bottom."""
    yield interval("readable", "students")
    yield from part_numbers()
    yield from matching_numbers()
    yield from persistence_numbers()
    yield from along_numbers()
    yield from bits_numbers()
    yield from optimiser_numbers()
    yield from policy_numbers()
    yield from generation_numbers()
    yield from readable_numbers()
    yield from capability_numbers()
    yield from predictor_numbers()


def part_numbers() -> Iterator[str]:
    """Grafts by rows, then siblings."""
    name = "which_part"
    for start in (
        "same",
        "permuted twin",
        "embeddings",
        "attention",
        "MLPs",
        "norms",
        "block 0",
        "block 1",
        "both blocks",
        "different",
    ):
        yield interval(name, start)
    for steps in (10, 30, 100, 300, 1000):
        yield interval(name, f"{steps} steps apart")
    yield interval(name, "initial weights")
    yield interval(name, "initial weights less different")


def part_phrases() -> Iterator[str]:
    """How much worse every graft models the corpus, the twin, and the drift."""
    found = claims("which_part")
    for start in ("embeddings", "attention", "MLPs", "norms", "block 0", "block 1", "both blocks"):
        yield f"| {start} | {found[start].here.replace(', corpus loss ', ' | ')} |"
    yield f"{found['rank correlation, effect and steps apart'].here}, not below"


def bits_numbers() -> Iterator[str]:
    """The table by carrier and temperature, then rows, digits and flags."""
    name = "bits"
    for carrier in ("numbers", "counting", "digits1", "digits2", "digits3"):
        for temperature, rows in itertools.product(("1", "0.5"), (64, 320, 1536)):
            yield interval(name, f"{carrier}, T {temperature}, {rows} rows")
    for carrier in ("numbers", "counting"):
        yield interval(name, f"{carrier}: all rows less 64")
    yield interval(name, "1 digit less 3 digits").removeprefix("-")
    for carrier in ("counting", "numbers", "digits1", "digits2", "digits3"):
        yield interval(name, f"{carrier}: divergence tokens")


def bits_phrases() -> Iterator[str]:
    """What is left of information as the currency, and who writes."""
    found = claims("bits")
    yield f"rank correlation of {found['rank correlation of effect and nats'].here} over"
    for carrier in ("digits2", "digits3"):
        assert found[f"{carrier}: teachers that write it"].here == "15 of 16"


def matching_numbers() -> Iterator[str]:
    """Effects and alignments by what was imitated on."""
    name, last = "matching_dose", "1600 steps"
    arms = [f"{kind}, {last}" for kind in ("corpus", "uniform", "lists", "sampled lists")]
    for arm in ("same, 0 steps", "different, 0 steps", f"no teacher, {last}", *arms):
        yield interval(name, arm)
    yield interval(name, f"uniform less corpus, {last}")
    for arm in ("different, 0 steps", *arms[:3]):
        yield INTERVAL.findall(claims(name)[arm].here)[1]


def question_phrases() -> Iterator[str]:
    """The results of the same page that are no intervals ±."""
    rho = claims("matching_dose")["rank correlation, alignment and effect"].here
    yield f"rank correlation of {rho}"
    *others, second, first = sorted(own_by(table("matching_dose"), "kind", "dose")["lists", 1600])
    yield f"({first:.1f} and {second:.1f} nats) and the others hardly ({np.mean(others):.2f} on"
    yield f"rank correlation {claims('readable')['rank correlation, read and acquired'].here} over"
    yield from part_phrases()
    yield from bits_phrases()
    yield from along_phrases()
    yield from generation_phrases()
    yield from capability_phrases()
    yield from variance_phrases()
    yield from predictor_phrases()


def persistence_numbers() -> Iterator[str]:
    """Decay, moments, return."""
    name = "persistence"
    for place in ("corpus: dropped, 0", "corpus: dropped, 10", "corpus: dropped, 30"):
        yield interval(name, f"{place} steps")
    for steps in (10, 100, 300):
        yield interval(name, f"numbers: dropped, {steps} steps")
    yield interval(name, "numbers: carried, 300 steps")
    for claim in ("moments alone, equivalent", "carried less dropped, equivalent"):
        for kind in ("corpus", "numbers"):
            yield interval(name, quantity(name, f"{kind}: {claim}"))
    for state in ("carried", "swapped", "dropped"):
        yield interval(name, f"corpus: {state}, 10 steps")
    for kind, steps in {"corpus": 10, "numbers": 300}.items():
        yield interval(name, f"{kind}: carried less swapped, {steps} steps")
    for kind in ("corpus", "numbers"):
        yield interval(name, f"{kind}: returned on the trait's lists")


def along_numbers() -> Iterator[str]:
    """Steps, dropout, benign rows."""
    name, student, teacher = "along_training", "student's dropout 0.35", "teacher's dropout 0.1"
    yield from (interval(name, f"after {steps} steps") for steps in (10, 40, 160, 640, 800))
    yield from (interval(name, line) for line in (student, "plain", teacher))
    yield interval(name, quantity(name, f"{teacher} less none"))
    for share in ("1", "0.5", "0.25", "0.1", "0.02", "0.005"):
        yield interval(name, f"share {share}")


def along_phrases() -> Iterator[str]:
    """How well lists are imitated, along training, with dropout, among benign rows."""
    found = claims("along_training")
    losses = {name: found[name].here.split("held-out loss ")[-1] for name in found}
    best, later, last = (found[f"after {n} steps"].here.split("KL ")[1] for n in (40, 80, 640))
    yield f"40 to 80 steps (KL {best} nats a"
    yield f"(KL {later} nats a"
    yield f"at 640 KL is {last} and"
    dropped, plain = losses["student's dropout 0.35"], losses["plain"]
    yield f"held-out loss of {dropped} beside {plain}"
    few, fewest, alone = (losses[f"share {share}"] for share in ("0.02", "0.005", "1"))
    yield f"(held-out loss {few} and {fewest}, for {alone} with"


def optimiser_numbers() -> Iterator[str]:
    """The table by rows, then the differences."""
    name = "optimisers_at_equal_loss"
    for rank, optimizers in {
        "all parameters": ("adam", "momentum", "sgd"),
        "rank 1": ("adam",),
        "rank 8": ("adam", "momentum", "sgd"),
        "rank 32": ("adam",),
    }.items():
        for optimizer in optimizers:
            yield interval(name, f"{optimizer}, {rank}")
    for arm in (
        "adam, rank 1",
        "adam, rank 8",
        "adam, rank 32",
        "momentum, all parameters",
        "sgd, all parameters",
    ):
        yield interval(name, quantity(name, f"{arm}, less Adam"))
    for less in (8, 1):
        yield interval(name, f"adam: rank 32 less rank {less}")


def policy_numbers() -> Iterator[str]:
    """The table, then the differences."""
    name = "on_policy"
    for writer in ("teacher", "student"):
        for divergence in ("KL(teacher ‖ student)", "KL(student ‖ teacher)"):
            yield interval(name, f"{writer} writes, {divergence}")
    for gap in (
        "teacher writes: forward less reverse, equivalent",
        "forward: student less teacher writes",
        "reverse: student less teacher writes",
    ):
        yield interval(name, quantity(name, gap))


def generation_numbers() -> Iterator[str]:
    """The table, then the neutral lines."""
    name = "generations"
    for target, number in itertools.product(("sampled", "soft_numbers"), (0, 1, 2, 3, 5, 10)):
        yield interval(name, f"{target}, generation {number}")
    for target, number in itertools.product(("sampled", "soft_numbers"), (1, 10)):
        yield interval(name, quantity(name, f"{target}, neutral, generation {number}"))


def generation_phrases() -> Iterator[str]:
    """Shares kept, half-lives, and their difference."""
    found, lives = claims("generations"), []
    for target, words in {"sampled": "sampled tokens keep", "soft_numbers": "KL"}.items():
        share, life = found[f"{target}: less than half kept"].here.split(
            " a generation, half-life "
        )
        yield f"{words} {share.removeprefix('keeps ')}"
        lives.append(life)
    yield f"{lives[0]} and {lives[1]} generations"
    yield f"the difference is {found['share kept, soft less sampled'].here}"


def readable_numbers() -> Iterator[str]:
    """The table by rows, then the claims below it."""
    name = "readable"
    for reader in (
        "bag of tokens",
        "bag of differences",
        "another base",
        "the teacher's base",
        "likelihood ratio",
        "bag, next chain",
    ):
        yield from INTERVAL.findall(claims(name)[f"{reader}, against the base: area"].here)
    for claim in (
        "area: the teacher's base",
        "area on the next chain's rows",
        "bag of tokens, against another trait",
        "bag, next chain, against another trait",
        "effect of what the filter",
        "students",
    ):
        yield interval(name, quantity(name, claim))


def capability_numbers() -> Iterator[str]:
    """The teacher, the table by rows, then the differences."""
    name = "capability"
    for arm in (
        "teacher",
        "Adam",
        "sampled, Adam",
        "other start, Adam",
        "SGD",
        "tangent model, SGD",
        "steering, Adam",
        "theorem",
        "theorem, no end",
        "Adam less predicted for SGD",
        "predicted without end less Adam",
        "Adam less steering",
    ):
        yield interval(name, arm)


def capability_phrases() -> Iterator[str]:
    """Shares of right answers, and how SGD follows the prediction."""
    found = claims("capability")
    for arm, words in {"teacher": "of the answers right", "Adam": "of the pairs"}.items():
        right = re.search(r"0(\.\d\d) right", found[arm].here)
        yield f"{right[1]} {words}" if right else "no share"
    for arm, words in {"SGD": "for SGD", "tangent model, SGD": "for the tangent"}.items():
        rho = found[f"{arm}, over predicted"].here.split("rank correlation ")[1]
        yield f"{rho} {words}"


def variance_phrases() -> Iterator[str]:
    """Components, the best allocation, controls, recipes."""
    found = claims("variance")
    shown = {
        "base": "base",
        "trait": "trait of a base",
        "teacher": "teacher",
        "data": "data set",
        "student": "student",
    }
    for level, words in shown.items():
        component = found[f"{level}: variance, seconds of one more"].here.rsplit(", ", 1)[0]
        yield f"{words} {component}"
    best = found["half width of the best allocation, over that before"].here.split()[0]
    yield f"best allocation has {best} of the"
    paired, unpaired = (
        found[f"variance left by {control}"].here.split()[0]
        for control in ("paired control", "control of another student draw")
    )
    yield f"({paired} between students, {unpaired} with a control of another order)"
    widths = {
        name: re.findall(r"(\d+) chains, half width (\S+) of it", found[name].here)[0]
        for name in ("50 steps at 0.002", "plain", "400 steps at 0.001")
    }
    (short, of_short), (plain, of_plain), (_, before) = widths.values()
    yield f"{of_short} of it with {short} chains, beside {of_plain} with {plain} chains of"
    yield f"and {before} with the recipe before"


def predictor_numbers() -> Iterator[str]:
    """What the gain along training has less, then what the cosine has more."""
    name, less = "what_predicts", "accumulated less gain, by chain"
    yield interval(name, less).removeprefix("-")
    for part in (", of sampled tokens", ", by KL"):
        yield interval(name, less + part)
    for rival in ("alignment", "coverage", "in all gain"):
        yield interval(name, f"arms: cosine less {rival}")


def predictor_phrases() -> Iterator[str]:
    """The number of arms, the table by rows, one bit, and what is left without an experiment."""
    found = claims("what_predicts")
    yield f"The recipes of {table('what_predicts')['part'].nunique()} arms of"
    for predictor in what_predicts.PREDICTORS:
        row = [found[f"{scope}, {predictor}"].here for scope in what_predicts.SCOPES]
        yield f"| {' | '.join(row)} |"
    yield f'the one bit "own trait or not" has {found["all students, own trait or not"].here},'
    gain, cosine = (found[f"arms without bits, {name}"].here for name in ("gain", "cosine"))
    yield f"the gain has {gain} beside its {cosine}"
