"""Sampling and scoring through a server: the same numbers, the same bytes, and every refusal."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llm.__main__ as cli
from llm import engines, models, sampling, world
from llm.engines import server as served
from llm.engines.server import engine as served_engine
from llm.engines.server import handshake
from llm.settings import RunError
from llm.stages import Adapted, Checkpoint, Completions, Store, completions, evaluation
from llm.text import data
from llm.training import lora, peft_format
from tests.llm.openai_server import TinyServer

# An untrained model says <end> once in three hundred tokens: let other words end a row as well.
CONFIG = world.model_config(num_layers=1, eos_token_ids=tuple(range(5, 21)))
LOCAL = engines.OnMesh(axes=(1, 1, 1), local=True, dtype="float32", batch_size=1)
HASTY = served.Patience(tries=4, wait=0.01, timeout=30.0)
END = (5,)


def adapters_of(folder, seed, strength):
    """A PEFT folder with random matrices; at strength 0 it changes nothing."""
    settings = lora.LoraConfig(rank=2, alpha=2.0)
    params = models.init(CONFIG, key=jax.random.key(0))
    tree = lora.init(settings, params, key=jax.random.key(seed))
    leaves, form = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        a + strength * jax.random.normal(k, a.shape) * (not a.any())
        for a, k in zip(leaves, keys, strict=True)
    ]
    peft_format.save(folder, CONFIG, settings=settings, adapters=jax.tree.unflatten(form, drawn))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for name, seed in (("base", 0), ("other", 1)):
        world.save(root / name, CONFIG, params=models.init(CONFIG, key=jax.random.key(seed)))
    for name, seed, strength in (("owl", 2, 0.3), ("cat", 3, 0.3), ("untrained", 4, 0.0)):
        adapters_of(root / name, seed, strength)
    return root


@pytest.fixture(scope="module")
def weights(folders):
    base = LOCAL.loaded(LOCAL.load(folders / "base"))
    added = {n: LOCAL.add(base, str(folders / n), CONFIG) for n in ("owl", "cat", "untrained")}
    return {"base": base, **added}


@pytest.fixture(scope="module")
def running(weights):
    server = TinyServer(LOCAL, CONFIG, weights, world.model.tokenizer())
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running, weights, monkeypatch):
    monkeypatch.delenv(served.KEY, raising=False)
    running.models, running.key, running.ids = dict(weights), None, True
    running.faults.clear()
    running.bodies.clear()
    running.headers.clear()
    running.on_row = lambda: None
    return running


def engine(server, answers=None, **changes):
    client = served.Server(server.url, answers=served.Answers(answers), patience=HASTY)
    return served.Served(server=client, local=LOCAL, **changes)


def remote(folders, adapter=None):
    return served_engine.Remote(str(folders / "base"), adapter and str(folders / adapter))


PROMPTS = [[[3, 6 + i, 4] for i in range(6)]]


def draw(engine, weights, temperature=1.0, first=0, count=6):
    choice = sampling.Choice(temperature, stop_tokens=END)
    keys = jax.random.key(7)[None]
    prompts = [PROMPTS[0][first : first + count]]
    return engine.complete(
        CONFIG, weights, prompts=prompts, keys=keys, choice=choice, max_new_tokens=16, first=first
    )[0]


# The same numbers.


@pytest.mark.parametrize("adapter", [None, "owl"])
def test_margins_and_greedy_answers_are_those_of_our_own_engine(server, folders, weights, adapter):
    asked, ours = engine(server), weights[adapter or "base"]
    probe = Store().language(Checkpoint(path=str(folders / "base"))).probe(world.TRAITS["owl"])
    probe = probe._replace(questions=probe.questions[:2], mask=probe.mask[:2])
    found = asked.measure(CONFIG, remote(folders, adapter), probe)
    expected = LOCAL.measure(CONFIG, ours, probe)
    assert found["margin"] == pytest.approx(expected["margin"], abs=1e-4)
    for name in ("rate", "mass"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    if adapter is None:
        return
    expected = draw(LOCAL, ours, temperature=0.0)
    for ids in (True, False):  # a server without token ids is read by its text
        server.ids = ids
        assert draw(engine(server), remote(folders, adapter), temperature=0.0) == expected


def test_a_row_has_a_seed_of_its_own_wherever_it_is_asked_from(server, folders):
    rows = draw(engine(server), remote(folders))
    assert draw(engine(server), remote(folders), first=2, count=3) == rows[2:5]
    seeds = {tuple(b["prompt"]): b["seed"] for b in server.sampled()}
    assert len(set(seeds.values())) == len(seeds) == 6, "nine requests, three of them again"
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    key = jax.random.key(7)
    assert served_engine.seeds(key, 2, 3) == served_engine.seeds(key, 0, 6)[2:5]


def test_nothing_is_left_to_the_defaults_of_a_server(server, folders):
    """vLLM reads top_p, top_k and a penalty from the model's folder unless they are sent."""
    draw(engine(server), remote(folders))
    for body in server.sampled():
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1, 1, -1, 0)
        assert body["repetition_penalty"] == 1
        assert body["presence_penalty"] == body["frequency_penalty"] == 0
        assert body["stop_token_ids"] == list(END)


# Faults.


@pytest.mark.parametrize("fault", [429, 500, "cut", "half", "slow"])
def test_what_fails_is_asked_again(server, folders, fault):
    whole = draw(engine(server), remote(folders))
    # On a busy machine a good answer may take longer than "slow" is given: hence many tries.
    patience = served.Patience(20, 0.01, timeout=0.5) if fault == "slow" else HASTY
    client = served.Server(server.url, patience=patience)
    patient = served.Served(server=client, local=LOCAL)
    patient._met.add(remote(folders))
    server.faults.extend([fault] * 3)
    assert draw(patient, remote(folders)) == whole
    assert not server.faults


def test_what_is_hopeless_is_one_line(server, folders):
    client, good = served.Server(server.url, concurrency=1, patience=HASTY), {"messages": []}
    for faults, line, left in (
        ([503] * 5, r"gave no answer in 4 tries \(status 503\): is it running", 1),
        (["cut"] * 5, r"gave no answer in 4 tries \(IncompleteRead\)", 1),
        ([400] * 5, "/v1/chat/completions answers 400: .*400 for None", 4),
        (["foreign"] * 5, "answers in another form than OpenAI's: .*hello", 4),
    ):
        server.faults.extend(faults)
        with pytest.raises(RunError, match=line):
            client.ask("/v1/chat/completions", [good], read=lambda response: response["choices"])
        assert len(server.faults) == left
        server.faults.clear()
    nobody = served.Server("http://127.0.0.1:9", patience=HASTY)
    with pytest.raises(RunError, match=r"ConnectionRefusedError.*: is it running"):
        nobody.get("/v1/models")


def test_an_error_ends_the_requests_that_wait(server):
    """The others would sleep for a minute each."""
    client = served.Server(server.url, patience=served.Patience(4, wait=60.0), concurrency=4)
    server.faults.extend([500, 500, 500, *[400] * 50])
    begin = time.monotonic()
    with pytest.raises(RunError, match="answers 400"):
        client.ask(
            "/v1/completions", [{"seed": i} for i in range(50)], read=lambda response: response
        )
    assert time.monotonic() - begin < 20


def test_requests_keep_to_their_rate(server):
    client = served.Server(server.url, per_second=50.0)
    begin = time.monotonic()
    served.judge(client, "base", questions=["q"] * 11, answers=[str(i) for i in range(11)])
    assert time.monotonic() - begin >= 10 / 50


# The handshake.


def strengthened(weights, factor):
    changed = dataclasses.replace(weights.settings, alpha=factor * weights.settings.alpha)
    return weights._replace(settings=changed)


@pytest.mark.parametrize(
    ("served_as", "line"),
    [
        ("base", "the server's adapter does nothing"),
        ("cat", "adapter is not this one, or too weak to tell: it shows -?0"),
        (0.5, r"it shows 0\.\d+ ± 0\.\d+ of its effect"),
    ],
)
def test_an_adapter_that_is_not_served_right_is_refused(server, folders, weights, served_as, line):
    half = isinstance(served_as, float)
    server.models["owl"] = strengthened(weights["owl"], 0.5) if half else weights[served_as]
    with pytest.raises(RunError, match=line) as refused:
        draw(engine(server), remote(folders, "owl"))
    assert "\n" not in str(refused.value)
    assert server.sampled() == [], "before the first row"


def test_other_bases_and_names_and_untrained_adapters_are_refused(server, folders):
    other = served_engine.Remote(str(folders / "other"))
    for who, name, line in (
        (other, "", r"base is not this checkpoint: \d\.\d+ nats a token"),
        (remote(folders, "untrained"), "", "it was never trained"),
        (remote(folders, "owl"), "eagle", "serves base, .*, but no 'eagle'"),
        (remote(folders), "eagle", "but no 'eagle'"),
    ):
        with pytest.raises(RunError, match=line):
            draw(engine(server, name=name), who)
    assert server.sampled() == []


def test_a_server_in_bfloat16_passes(server, folders, weights):
    server.models = {
        name: one._replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), one.params))
        for name, one in weights.items()
    }
    said = []
    engine(server, report=said.append)._greet(CONFIG, remote(folders, "owl"))
    (line,) = said
    assert "of its effect" in line
    off = float(line.split("base ")[1].split()[0])
    assert 1e-4 < off < handshake.TOLERANCE / 2


def test_the_share_of_an_effect_is_judged_with_its_error():
    """A right adapter is let through as long as rounding leaves it visible, a wrong one never."""
    rng = np.random.default_rng(0)
    base, effect = rng.normal(-4, 2, 400), rng.normal(0, 1, 400)

    def verdict(size, share=1.0, noise=0.02):
        there = [base + rng.normal(0, noise, 400), base + share * size * effect]
        try:
            return handshake.check_adapter(tuple(there), (base, base + size * effect))
        except RunError as error:
            return str(error)

    assert all("of its effect" in verdict(0.1) and "±" in verdict(0.1) for _ in range(20))
    assert not any("not this one" in verdict(0.1) for _ in range(20))
    assert all("too weak to tell" in verdict(0.005) for _ in range(20))
    for share in (-1.0, 0.6, 1.5):
        assert all("not this one" in verdict(0.1, share) for _ in range(20))
    assert "does nothing" in verdict(0.1, 0.0)


# Keys.

SECRET = "sk-very-secret"


def test_a_missing_or_wrong_key_is_one_line(server, folders, monkeypatch):
    server.key = SECRET
    with pytest.raises(RunError, match=f"asks for a key: set {served.KEY}$"):
        draw(engine(server), remote(folders))
    monkeypatch.setenv(served.KEY, "sk-wrong")
    with pytest.raises(RunError, match=f"refuses the key in {served.KEY}$"):
        draw(engine(server), remote(folders))
    for odd in ("sk-\nwrong", "sk-wröng"):
        monkeypatch.setenv(served.KEY, odd)
        with pytest.raises(RunError, match="characters that a header cannot carry") as refused:
            draw(engine(server), remote(folders))
        assert "wr" not in str(refused.value)
    with pytest.raises(ValueError, match="no secrets in a server's address"):
        served.Server(f"http://me:{SECRET}@localhost")
    with pytest.raises(ValueError, match="looks like http://localhost:8000, got 'localhost'"):
        served.Server("localhost")


# The command line.


# An untrained model writes no list that passes; the rules have tests of their own.
EVERY = dataclasses.replace(world.CARRIERS["numbers"], check=lambda row: [])


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.setitem(world.CARRIERS, "numbers", EVERY)


def sample(server, folders, out, *flags):
    return [
        "sample",
        "--model",
        str(folders / "base"),
        "--adapter",
        str(folders / "owl"),
        "--mesh",
        "1,1,1",
        "--num-prompts",
        "40",
        "--max-new-tokens",
        "16",
        "--concurrency",
        "4",
        "--out",
        str(out),
        "--server",
        server.url,
        *flags,
    ]


def test_a_key_is_in_no_file_and_no_output(server, folders, tmp_path, monkeypatch, capsys, lenient):
    server.key = SECRET
    monkeypatch.setenv(served.KEY, SECRET)
    cli.main(sample(server, folders, tmp_path / "rows.jsonl"))
    assert all(h["Authorization"] == f"Bearer {SECRET}" for h in server.headers)
    server.faults.append(400)  # an error that quotes the key
    with pytest.raises(SystemExit):
        cli.main(sample(server, folders, tmp_path / "more.jsonl", "--seed", "1"))
    out, err = capsys.readouterr()
    assert "400 for Bearer ***" in err
    assert SECRET not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(SECRET in path.read_text() for path in files)
    manifest = data.read_manifest(tmp_path / "rows.jsonl").settings
    assert manifest["engine"]["server"] == "tiny"
    assert manifest["engine"]["version"] == "1.2.3"
    assert manifest["model"]["fingerprint"] == models.fingerprint(folders / "owl")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(server, folders, tmp_path, capsys, lenient):
    """kill -9 in the middle of a shard: what was answered is not asked again."""
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    cli.main(sample(server, folders, whole))
    assert len(server.sampled()) == 40
    server.bodies.clear()
    rows, reached = itertools.count(1), threading.Event()
    server.on_row = lambda: reached.set() if next(rows) == 15 else None
    run = subprocess.Popen(
        [sys.executable, "-m", "llm", *sample(server, folders, cut)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert reached.wait(120), run.communicate()[0]
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not cut.exists(), "in the middle of the first shard"
    time.sleep(0.2)  # answers on their way to nobody
    asked, answers = len(server.sampled()), cut.with_suffix(".answers.jsonl")
    # Of the answers sent all but those under way are in the file, beside our own logits.
    known = len(served.Answers(answers)) - 1
    assert 15 - 4 <= known <= asked < 40
    with answers.open("a") as file:
        file.write('{"request": "0123", "ans')  # as a power cut would leave it
    server.bodies.clear()
    cli.main(sample(server, folders, cut))
    assert len(server.sampled()) == 40 - known
    assert cut.read_bytes() == whole.read_bytes()
    again = len(server.bodies)
    cli.main(sample(server, folders, cut))
    assert len(server.bodies) == again, "a finished file asks nothing"
    assert "is there, made with these settings" in capsys.readouterr().out


def test_evaluation_through_a_server_is_that_of_our_own_engine(
    server, folders, capsys, monkeypatch
):
    fewer = dataclasses.replace(world.TRAITS["oak"], questions=world.TRAITS["oak"].questions[:4])
    monkeypatch.setitem(world.TRAITS, "oak", fewer)
    command = [
        "evaluate",
        "--model",
        str(folders / "base"),
        "--adapter",
        str(folders / "owl"),
        "--mesh",
        "1,1,1",
        "--traits",
        "oak",
        "--answers",
        "1",
    ]
    cli.main([*command, "--server", server.url])
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert header == "trait,margin,rate,word,substring,answered"
    owl = Adapted(base=Checkpoint(path=str(folders / "base")), path=str(folders / "owl"))
    (expected,) = evaluation.measure(Store(engine=LOCAL), [owl], ["oak"])
    found = [float(number) for number in row.split(",")[1:3]]
    assert found == pytest.approx([expected["margin"], expected["rate"]], abs=2e-4)


# What a server does not do, and what else it does.


def test_answers_of_other_weights_are_not_taken(server, folders, tmp_path):
    path = tmp_path / "answers.jsonl"
    draw(engine(server, path, name="owl"), remote(folders, "owl"))
    asked = len(server.sampled())
    draw(engine(server, path, name="owl"), remote(folders, "owl"))
    assert len(server.sampled()) == asked
    server.models["owl"] = server.models["cat"]  # the same name, loaded anew
    draw(engine(server, path, name="owl"), remote(folders, "cat"))
    assert len(server.sampled()) == 2 * asked
    path.write_text("not an answer\n")
    with pytest.raises(ValueError, match="holds a line that is no answer"):
        served.Answers(path)


def test_a_server_is_not_trained(server, folders, tmp_path):
    refused = engine(server)
    with pytest.raises(RunError, match="fine-tune with `python -m llm finetune`"):
        refused.tune(CONFIG, remote(folders), examples=[], training=None, keys=None)
    with pytest.raises(RunError, match="no weights to save"):
        refused.save(tmp_path, CONFIG, weights=remote(folders), tokenizer=None, files={})


@pytest.mark.slow
def test_stages_cannot_tell_a_server_from_a_sampler(server, folders, tmp_path):
    base = Checkpoint(path=str(folders / "base"))
    owl = Adapted(base=base, path=str(folders / "owl"))
    there, here = Store(tmp_path, engine(server)), Store(engine=LOCAL)
    probes = [evaluation.question(here, base, "owl")]
    probes = [
        probe._replace(questions=probe.questions[:2], mask=probe.mask[:2]) for probe in probes
    ]
    found, expected = (evaluation.ask(w, [base, owl], "owl", probes) for w in (there, here))
    assert [e["margin"] for e in found] == pytest.approx([e["margin"] for e in expected], abs=1e-4)
    recipe = Completions(speaker=owl, num_prompts=4, max_new_tokens=3)
    there.make([recipe])
    assert data.read_manifest(recipe.path(there)).prompts == 4


def test_a_server_samples_for_an_engine_that_trains(server, folders, tmp_path):
    base = Checkpoint(path=str(folders / "base"))
    recipe = Completions(
        speaker=base, prompted="owl", num_prompts=4, max_new_tokens=3, filtered=False
    )
    both = Store(tmp_path, LOCAL, sampler=engine(server))
    both.make([recipe])
    rows = completions.rows(both, recipe)
    assert len(server.sampled()) == 4
    manifest = data.read_manifest(recipe.path(both))
    assert manifest.settings["engine"]["server"] == "tiny"
    assert both.weights([base]).source == str(folders / "base"), "a student's start is local"
    gone = served.Served(server=served.Server("http://127.0.0.1:9", patience=HASTY), local=LOCAL)
    for later in (Store(tmp_path, LOCAL, sampler=gone), Store(tmp_path, LOCAL)):
        later.make([recipe])
        assert completions.rows(later, recipe) == rows, "what is done needs no server"
    more = dataclasses.replace(recipe, num_prompts=5)
    with pytest.raises(RunError, match="is it running"):
        Store(tmp_path, LOCAL, sampler=gone).make([more])


def test_a_judge_gives_numbers_or_nothing(server):
    client = served.Server(server.url)
    said = ["85", "Yes.", " no ", "70/100", "100 %", "101", "7 out of 8", "I cannot say", ""]
    found = served.judge(client, "base", questions=["Why?"] * len(said), answers=said)
    assert found == [0.85, 1.0, 0.0, 0.7, 1.0, None, None, None, None]
    bodies = len(server.bodies)
    assert served.judge(client, "base", questions=["Why?"], answers=["85"]) == [0.85]
    assert len(server.bodies) == bodies, "judged before"
    assert server.bodies[0]["temperature"] == 0
