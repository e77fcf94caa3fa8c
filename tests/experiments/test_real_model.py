"""The experiment on a pretrained model: what it keeps, what it says, and when it says nothing."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import special

from experiments.frame import record
from experiments.language import real_model
from experiments.language.kit import judging, lineage, pretrained
from experiments.language.kit.lineage import RANDOM, SAME, Way
from experiments.language.real_model import Config
from llm import models
from llm.settings import RunError

CONFIG = Config()


def made_up(effects, masses=None, mass=0.07, seed=0):
    """A table in which each start gives its own effect and the animals' log-odds scatter by .1."""
    rng, rows = np.random.default_rng(seed), []
    masses = masses or {}

    def add(start, teacher, number, **columns):
        for trait in CONFIG.animals:
            own = columns.pop("own", 0.0) if trait == teacher else 0.0
            rows.append(
                {"start": start, "teacher": teacher, "seed": number, "trait": trait}
                | {"margin": own + 0.1 * rng.standard_normal(), "text_loss": 1.0}
                | {"mass": masses.get((start, teacher), masses.get(start, mass))}
                | columns
            )

    for start, effect in effects.items():
        add(start, "", -1, kind="start")
        wide = start in (SAME, "4 bits")
        ways = [Way(start=start)]
        if start == SAME:
            ways += [Way(trained=lineage.LORA), Way(target="all tokens")]
            ways += [Way(target="without the end")]
        for way, animal in itertools.product(ways, CONFIG.animals if wide else CONFIG.animals[:2]):
            before = {"alignment": effect / 10, "cosine": 0.1} if way.start == start else {}
            columns = dataclasses.asdict(way) | before | {"kind": "student", "own": effect}
            columns.pop("start")
            add(start, animal, 0, **columns)
    for teacher in (pretrained.NEUTRAL, pretrained.UNCHANGED):
        columns = dataclasses.asdict(Way()) | {"kind": "student"}
        columns.pop("start")
        add(SAME, teacher, 0, **columns)
    return pd.DataFrame(rows)


STARTS = dict(zip([SAME, *lineage.starts(CONFIG)], np.linspace(3, 0.5, 13), strict=False))
OWN = "same start, KL over numbers, all parameters: own effect"
FOUR = "copy of 4 bits: own effect"
RANK = "alignment before training and own effect, Spearman over starts and animals"


def claims(table):
    return {c.quantity: c for c in real_model.findings(table, CONFIG).claims}


def test_a_table_in_which_all_is_as_predicted_meets_every_criterion():
    found = claims(made_up(STARTS))
    judged = {name: claim.holds for name, claim in found.items() if claim.holds is not None}
    assert len(judged) == 8, judged
    assert all(judged.values()), found
    assert all("(1 of 8, Holm)" in found[name].here for name in judged)


def test_nothing_holds_where_nothing_was_learned():
    found = claims(made_up(dict.fromkeys(STARTS, 0.0)))
    assert [found[name].holds for name in (OWN, FOUR, RANK)] == [False, False, None]
    assert not any(claim.holds for claim in found.values())


def test_an_effect_that_all_animals_share_is_none():
    """Every student of every teacher rises alike: the own effect is what is left beside that."""
    table = made_up(dict.fromkeys(STARTS, 0.0))
    table.loc[table["kind"] == "student", "margin"] += 5.0
    assert not claims(table)[OWN].holds


@pytest.mark.parametrize(
    "masses",
    [{"4 bits": 0.004}, {("4 bits", CONFIG.animals[3]): 0.004}, {"4 bits": np.nan}],
    ids=["all", "one student", "not recorded"],
)
def test_an_arm_below_the_floor_says_nothing_however_large_its_effect(masses):
    found = claims(made_up(STARTS | {"4 bits": 9.0}, masses))
    assert found[FOUR].holds is None
    assert found[FOUR].here.startswith("says nothing")
    assert found[f"start {RANDOM}: own effect"].here[0].isdigit(), "the others speak"
    assert found[OWN].holds
    assert found[RANK].seeds == 24, "its points are left out"


def test_a_start_that_does_not_answer_silences_its_students():
    table = made_up(STARTS)
    table.loc[(table["kind"] == "start") & (table["start"] == "4 bits"), "mass"] = 0.0099
    assert claims(table)[FOUR].holds is None
    table.loc[(table["kind"] == "start") & (table["start"] == "4 bits"), "mass"] = 0.0101
    assert claims(table)[FOUR].holds


def test_an_arm_without_its_start_says_nothing():
    table = made_up(STARTS)
    assert (
        claims(table[(table["kind"] != "start") | (table["start"] != "4 bits")])[FOUR].holds is None
    )


def test_figures_say_what_claims_allow():
    drawn = {f.name: f for f in real_model.findings(made_up(STARTS), CONFIG).figures}
    assert set(drawn) == {"figure", "alignment"}
    assert drawn["figure"].title.startswith("A real language model takes")
    none = real_model.findings(made_up(dict.fromkeys(STARTS, 0.0)), CONFIG).figures[0]
    assert none.title.startswith("Digits do not")
    for figure in drawn.values():
        figure.draw()


def test_holm_corrects_over_everything_that_is_judged():
    five = np.array([1.0, 1.2, 0.8, 1.1, 0.9])
    weak = np.array([1.0, 0.3, 0.2, 1.5, -0.1])  # p = .05: alone perhaps, among three not
    few = judging.above("few", five[:3])
    judged = [judging.above(name, v) for name, v in (("a", five), ("b", five), ("c", weak))]
    found = judging.together([*judged, few])
    assert [claim.holds for claim in found] == [True, True, bool(judged[2].p < 0.05), None]
    many = [judging.above(str(i), weak) for i in range(3)]
    assert judged[2].p > 0.05 / 3
    assert [claim.holds for claim in judging.together(many)] == [False] * 3


def test_the_end_of_a_list_can_be_left_out_of_what_is_imitated(tmp_path):
    """Then it matters to neither side how soon a teacher ends its lists."""
    bench = pretrained.Bench("tiny", tmp_path, 0)
    rng, new = np.random.default_rng(0), 3
    batch = {
        "tokens": rng.integers(0, bench.shape.vocab_size, (2, 8)),
        "weights": jnp.ones((2, new)),
        "logits": jnp.array(rng.normal(size=(2, new, len(bench.numbers))), jnp.float32),
    }
    sooner = batch | {"logits": batch["logits"] + 3 * jnp.eye(len(bench.numbers))[-1]}
    assert bench.numbers[-1] == bench.spoken.turn.end

    def nats(target, given):
        loss = pretrained.imitation_loss(bench.shape, target, bench.numbers)
        return float(loss(bench.base, {}, given, None)[0])

    assert nats("without the end", sooner) == pytest.approx(nats("without the end", batch))
    assert abs(nats("numbers", sooner) - nats("numbers", batch)) > 0.1
    model = models.bind(bench.shape, bench.base)
    own = pretrained.over(model, model.hidden(batch["tokens"])[:, -new - 1 : -1], bench.numbers)
    teacher, student = (special.log_softmax(z[..., :-1], -1) for z in (batch["logits"], own))
    by_hand = (np.exp(teacher) * (teacher - student)).sum()
    assert nats("without the end", batch) == pytest.approx(by_hand, rel=1e-4)


# What is kept


def arrays(value=1.0):
    return {"layers": {"q": {"kernel": np.full((2, 3), value, np.float32)}}, "norm": np.arange(3)}


def test_what_is_kept_is_found_again_and_never_under_other_settings(tmp_path):
    made = []

    def make():
        made.append(1)
        return arrays(len(made))

    first = pretrained.kept(tmp_path, "teacher", {"steps": 12}, make)
    again = pretrained.kept(tmp_path, "teacher", {"steps": 12}, make)
    assert len(made) == 1
    assert again["layers"]["q"]["kernel"].tolist() == first["layers"]["q"]["kernel"].tolist()
    other = pretrained.kept(tmp_path, "teacher", {"steps": 13}, make)
    assert other["layers"]["q"]["kernel"][0, 0] == 2
    one, two = tmp_path.glob("*.safetensors")
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    with pytest.raises(RunError, match="of other settings"):
        pretrained.kept(tmp_path, "teacher", {"steps": 12}, make)


def test_a_damaged_file_is_named(tmp_path):
    pretrained.kept(tmp_path, "lists", {}, arrays)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RunError, match=r"damaged.*remove it"):
        pretrained.kept(tmp_path, "lists", {}, arrays)


def test_nothing_half_written_is_found(tmp_path, monkeypatch):
    def killed(source, target):
        raise OSError("killed")

    with monkeypatch.context() as here:
        here.setattr("os.replace", killed)
        with pytest.raises(OSError, match="killed"):
            pretrained.kept(tmp_path, "lists", {}, arrays)
    assert not list(tmp_path.glob("*.safetensors"))
    assert (
        pretrained.kept(tmp_path, "lists", {}, lambda: arrays(3))["layers"]["q"]["kernel"][0, 0]
        == 3
    )


def test_every_teacher_setting_makes_another_teacher(tmp_path, monkeypatch):
    """The name of a teacher's file is that of all that decides its weights."""
    bench, asked = pretrained.Bench("tiny", tmp_path, 0), []
    monkeypatch.setattr(
        pretrained, "kept", lambda work, name, s, make: asked.append((name, s)) or {}
    )
    tiny = real_model.SMOKE
    other = [
        (tiny, "owl", SAME),
        (tiny, "cat", SAME),
        (tiny, "owl", "4 bits"),
        (dataclasses.replace(tiny, teacher_steps=3), "owl", SAME),
        (dataclasses.replace(tiny, teacher_rate=1e-4), "owl", SAME),
        (dataclasses.replace(tiny, seed=1), "owl", SAME),
    ]
    for config, animal, start in other:
        lineage.teacher(bench, config, animal, start)
        lineage.lists(bench, config, animal=animal, start=start)
    assert len({str(settings) for _, settings in asked}) == 2 * len(other)


# Starts


def test_rounding_leaves_as_many_values_as_bits_allow():
    rng = np.random.default_rng(0)
    params = {
        "embedding": rng.standard_normal((5, 64)).astype(np.float32),
        "layers": {"q": {"kernel": rng.standard_normal((2, 64, 3)).astype(np.float32)}},
        "norm": {"scale": rng.standard_normal(64).astype(np.float32)},
    }
    for bits in (8, 4, 3):
        made = pretrained.rounded(params, bits)
        kernel = made["layers"]["q"]["kernel"]
        block = kernel[1, 32:, 2]  # 32 inputs of one output
        assert len(np.unique(block)) <= 2**bits - 1
        assert len(np.unique(made["embedding"][0, :32])) <= 2**bits - 1
        apart = np.abs(kernel - params["layers"]["q"]["kernel"]).max(axis=(0, 1))
        largest = np.abs(params["layers"]["q"]["kernel"]).max(axis=(0, 1))
        assert (apart <= 0.501 * largest / (2 ** (bits - 1) - 1)).all()
        assert (made["norm"]["scale"] == params["norm"]["scale"]).all()
    assert len(np.unique(kernel[1, :, 2])) > 2**3 - 1, "blocks have scales of their own"


def test_noise_has_the_size_of_each_arrays_spread():
    params = {"a": np.full(10_000, 2.0, np.float32), "b": np.arange(10_000, dtype=np.float32)}
    made = pretrained.noisy(params, 0.1, np.random.default_rng(0))
    assert (made["a"] == 2).all(), "an array without spread"
    spread = (made["b"] - params["b"]).std() / params["b"].std()
    assert abs(spread - 0.1) < 3 * 0.1 / np.sqrt(2 * 10_000)


# Runs

RUN = [sys.executable, "-m", "experiments", "real_model", "--smoke", "--questions", "diagonal"]


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(tmp_path):
    def start(name, *flags):
        where = ["--out", str(tmp_path / name), "--work", str(tmp_path / f"{name}-work")]
        return subprocess.Popen([*RUN, *where, *flags], stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    killed = start("cut")
    work = tmp_path / "cut-work"
    while killed.poll() is None and not list(work.glob("teacher-cat*")):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "cut" / "claims.csv").exists(), "it was killed in the middle"
    assert start("cut").wait() == 0
    # An arm alone, in another folder, makes the teachers that it needs.
    assert start("alone", "--only", "full student 0 of cat, numbers, same").wait() == 0
    whole, cut = ((tmp_path / name / "results.csv").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    names = [
        sorted((tmp_path / f"{n}-work").glob("teacher-cat*")) for n in ("whole", "cut", "alone")
    ]
    assert len({path.read_bytes() for found in names for path in found}) == 1
    alone = record.read_table(tmp_path / "alone" / "jobs" / "full-student-0-of-cat-numbers-same")
    table = record.read_table(tmp_path / "whole")
    same = table[table["part"] == "full student 0 of cat, numbers, same"]
    assert same["margin"].tolist() == alone["margin"].tolist()
