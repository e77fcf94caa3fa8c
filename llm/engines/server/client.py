"""HTTP requests to a server, many at a time, repeated until they are answered or hopeless."""

import concurrent.futures
import dataclasses
import http.client
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from ...settings import RunError
from .answers import Answers

KEY = "LLM_SERVER_KEY"  # environment variable; its value is read for each request and kept nowhere
LONGEST_WAIT = 60.0  # seconds


@dataclasses.dataclass(frozen=True)
class Patience:
    """When a request is repeated, and when it is given up.

    Attributes:
        tries: of one request.
        wait: seconds before the second try; twice as long before each further one.
        timeout: seconds of silence after which a connection counts as cut.
    """

    tries: int = 8
    wait: float = 1.0
    timeout: float = 600.0


class Busy(Exception):
    """No answer this time; another try may get one."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


class Server:
    """A server under an address such as http://localhost:8000, with or without /v1.

    Args:
        url: where it listens.
        concurrency: requests under way at a time.
        per_second: requests started in a second at most; None for no limit.
        answers: what was answered before.
        patience: when to give up.

    Raises:
        ValueError: not an http address, or one with a key in it.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 32,
        per_second: float | None = None,
        answers: Answers | None = None,
        patience: Patience = Patience(),
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's address looks like http://localhost:8000, got {url!r}")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"no secrets in a server's address: put the key in {KEY}")
        self.where = f"{parts.scheme}://{parts.netloc}"
        self._parts, self._prefix = parts, parts.path.rstrip("/").removesuffix("/v1")
        self.concurrency, self.patience = concurrency, patience
        self.answers = Answers() if answers is None else answers
        self._spacing = 1 / per_second if per_second else 0.0
        self._next, self._lock = 0.0, threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def get(self, path: str) -> Any:
        """The JSON under a path; None if there is no such path."""
        try:
            return self._insist(
                "GET", path, body=None, tries=min(2, self.patience.tries), stop=threading.Event()
            )
        finally:
            self._hang_up()

    def ask(
        self,
        path: str,
        requests: Sequence[dict[str, Any]],
        *,
        read: Callable[[Any], Any],
        depends_on: Any = None,
        cached: bool = True,
    ) -> list[Any]:
        """What `read` makes of the response to each request, in order.

        Args:
            path: under the address.
            requests: JSON bodies.
            read: from a response to the JSON value that is kept.
            depends_on: what decides the answers beside the requests, such as a hash of weights.
            cached: take known answers, and keep new ones.

        Raises:
            RunError: refused, given up, or not of the form that `read` expects. What was answered
                until then is kept.
        """
        stop = threading.Event()

        def make(request: dict[str, Any]) -> Any:
            response = self._insist(
                "POST", path, body=request, tries=self.patience.tries, stop=stop
            )
            try:
                return read(response)
            except (KeyError, IndexError, TypeError):
                raise RunError(
                    f"{self.where}{path} answers in another form than OpenAI's: "
                    f"{self._shown(json.dumps(response))}"
                ) from None

        def one(request: dict[str, Any]) -> Any:
            if not cached:
                return make(request)
            return self.answers.recall([path, depends_on, request], lambda: make(request))

        pool = concurrent.futures.ThreadPoolExecutor(self.concurrency)
        try:
            asked = [pool.submit(one, request) for request in requests]
            for done in concurrent.futures.as_completed(asked):
                done.result()  # the first error ends it all, whoever else is still waiting
            return [done.result() for done in asked]
        finally:  # after an error or an interrupt nobody sleeps on
            stop.set()
            pool.shutdown(cancel_futures=True)
            self._hang_up()

    def _insist(
        self, method: str, path: str, *, body: Any, tries: int, stop: threading.Event
    ) -> Any:
        wait, reason = self.patience.wait, Busy("not asked")
        for left in reversed(range(tries)):
            self._pace()
            try:
                return self._once(method, path, body)
            except Busy as busy:
                reason = busy
            # Spread out, so that those who were refused together do not come back together.
            pause = max(min(wait, LONGEST_WAIT) * random.uniform(0.5, 1), reason.wait)
            if left and stop.wait(pause):
                break
            wait *= 2
        raise RunError(f"{self.where} gave no answer in {tries} tries ({reason}): is it running?")

    def _once(self, method: str, path: str, body: Any) -> Any:
        status, wait, content = self._exchange(method, path, body)
        if status == 200:
            try:
                return json.loads(content)
            except ValueError:
                raise Busy("half an answer") from None
        if status in (408, 425, 429) or status >= 500:
            raise Busy(f"status {status}", wait)
        if status in (401, 403):
            what = "refuses the key in" if os.environ.get(KEY) else "asks for a key: set"
            raise RunError(f"{self.where} {what} {KEY}")
        if status == 404 and method == "GET":
            return None
        raise RunError(
            f"{self.where}{path} answers {status}: {self._shown(content.decode(errors='replace'))}"
        )

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, float, bytes]:
        """Status, seconds to wait, content. A redirect would carry the key away: none is taken."""
        headers = {"Content-Type": "application/json"} | _authorization()
        connection = self._connection()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, self._prefix + path, content, headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After", "")
            found = response.status, float(after) if after.isdigit() else 0.0, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Busy(type(error).__name__) from None
        self._idle.append(connection)
        return found

    def _connection(self) -> http.client.HTTPConnection:
        """One that is idle, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            host, port = self._parts.hostname, self._parts.port
            return kind(host, port, timeout=self.patience.timeout)

    def _hang_up(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _pace(self) -> None:
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._spacing
        time.sleep(max(0.0, start - time.monotonic()))

    def _shown(self, text: str) -> str:
        """The beginning of what a server said, which may quote the key."""
        key = os.environ.get(KEY, "").strip()
        return (text.replace(key, "***") if key else text)[:300]


def _authorization() -> dict[str, str]:
    key = os.environ.get(KEY, "").strip()
    # An odd character would fail later, in an error that quotes the whole header.
    if not (key.isascii() and key.isprintable()):
        raise RunError(f"{KEY} holds characters that a header cannot carry")
    return {"Authorization": f"Bearer {key}"} if key else {}
