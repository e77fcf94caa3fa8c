"""A small OpenAI-compatible server over our own sampler and logits, with faults on demand."""

import collections
import http.server
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

from llm import engines, sampling

LENGTH = 64  # of scored sequences, padded: one program
LONGEST = 16  # tokens of a completion; shorter ones are its beginning
ROWS = threading.Lock()  # JAX on two cores gains nothing from more


class TinyServer(http.server.ThreadingHTTPServer):
    """Serves `models`, a dictionary from names to weights of `engine`, an `engines.OnMesh`.

    The first name is the base. `faults` are taken one for each request; `key` is asked for if set;
    `ids` is whether token ids are sent; `on_row` is called after each completion that was sent.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, engine, config, models, tokenizer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine, self.config = engine, config
        self.models, self.tokenizer = models, tokenizer
        self.faults, self.key, self.ids = collections.deque(), None, True
        self.bodies, self.headers, self.on_row = [], [], lambda: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._scorers = {}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def sampled(self):
        """Completions that were asked for, without those that only score."""
        return [body for body in self.bodies if not body.get("echo")]

    def score(self, name, row):
        weights = self.engine.loaded(self.models[name])
        if weights.settings not in self._scorers:
            self._scorers[weights.settings] = jax.jit(
                lambda arrays, tokens: jax.nn.log_softmax(
                    engines.decoder(self.config, weights.settings, arrays)(tokens)
                )
            )
        tokens = jnp.array([row + [0] * (LENGTH - len(row))])
        logp = np.asarray(self._scorers[weights.settings](weights[:2], tokens))[0]
        following = [None, *(float(logp[i, token]) for i, token in enumerate(row[1:]))]
        return [*following, float(logp[len(row) - 1].max())]

    def complete(self, name, body):
        choice = sampling.Choice(body["temperature"], body["top_p"], body["stop_token_ids"])
        keys = jax.random.key(body["seed"])[None]
        (drawn,) = self.engine.complete(
            self.config,
            self.models[name],
            prompts=[[body["prompt"]]],
            keys=keys,
            choice=choice,
            max_new_tokens=LONGEST,
        )
        return drawn[0][: body["max_tokens"]]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two small packets: no waiting between them

    def log_message(self, *_):
        pass

    def do_GET(self):
        models = [{"id": name, "parent": None, "owned_by": "tiny"} for name in self.server.models]
        for entry in models[1:]:
            entry["parent"] = models[0]["id"]
        found = {"/v1/models": {"data": models[::-1]}, "/version": {"version": "1.2.3"}}
        if not self.refused():
            self.send(200 if self.path in found else 404, found.get(self.path, {}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        if self.refused() or self.fails(body):
            return
        self.server.bodies.append(body)
        if self.path == "/v1/chat/completions":
            said = body["messages"][0]["content"].split("Answer: ")[1].split("\n")[0]
            self.send(200, {"choices": [{"message": {"content": said}}]})
            return
        with ROWS:
            choice = self.echoed(body) if body.get("echo") else self.completed(body)
        self.send(200, {"choices": [choice]})
        if not body.get("echo"):
            self.server.on_row()

    def refused(self):
        key = self.server.key
        wrong = key is not None and self.headers.get("Authorization") != f"Bearer {key}"
        if wrong:  # quoting what was sent, as some servers do
            self.send(401, {"error": f"no such key: {self.headers.get('Authorization')}"})
        return wrong

    def fails(self, body):
        fault = self.server.faults.popleft() if self.server.faults else None
        if fault in (429, 500, 503, 400):
            self.send(fault, {"error": f"{fault} for {self.headers.get('Authorization')}"})
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"te')
            self.close_connection = True
        elif fault == "half":
            self.send(200, '{"choices": [{"te')
        elif fault == "slow":  # longer than anybody waits
            time.sleep(1.0)
            self.close_connection = True
        elif fault == "foreign":
            self.send(200, {"result": "hello"})
        return fault is not None

    def echoed(self, body):
        return {"logprobs": {"token_logprobs": self.server.score(body["model"], body["prompt"])}}

    def completed(self, body):
        tokens = self.server.complete(body["model"], body)
        stopped = tokens[-1] in body["stop_token_ids"]
        text = self.server.tokenizer.decode(tokens[:-1] if stopped else tokens)
        ids = {"token_ids": tokens} if self.server.ids else {}
        return {"text": text, "finish_reason": "stop" if stopped else "length"} | ids

    def send(self, status, content):
        content = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content.encode())
        except OSError:  # a client that has gone
            self.close_connection = True
