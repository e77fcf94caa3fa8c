"""A page in headless Chromium, driven over a pipe by the DevTools protocol.

Sizes are those of the page's own window, in CSS pixels, as on a device of that size.
"""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pooch
import pytest

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
PATIENCE = 240.0  # seconds; a machine that is busy starts a browser slowly
AXE = "axe-core@4.10.3"


class Browser:
    """One tab of a running browser."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from, self._rest, self._number = to_browser, from_browser, b"", 0
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command.

        Raises:
            RuntimeError: if it refuses.
            TimeoutError: if it does not answer.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda said: said.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _wait(self, is_it) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self._rest:
                ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
                if not ready or not (piece := os.read(self._from, 1 << 16)):
                    raise TimeoutError("the browser says nothing")
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            if is_it(said := json.loads(line)):
                return said

    def open(self, path: pathlib.Path, *, width: int, height: int, dark: bool = False) -> None:
        """Load a file in a window of this size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self._wait(lambda said: said.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What JavaScript says, awaited.

        Raises:
            RuntimeError: if it throws.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key that makes no letter: Tab, Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def picture(self, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def printed(self) -> bytes:
        """The page as PDF, A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def browser(profile: pathlib.Path) -> Iterator[Browser]:
    """A browser with an empty profile, ended at the end; without one the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    (read_by_it, to_it), (from_it, written_by_it) = os.pipe(), os.pipe()
    # The browser reads from 3 and writes to 4. A shell puts them there: this process has threads.
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{read_by_it} 4>&{written_by_it}', "bash", *command],
        pass_fds=(read_by_it, written_by_it),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_by_it)
    os.close(written_by_it)
    try:
        tab = Browser(to_it, from_it)
        yield tab
        tab._session = None
        with contextlib.suppress(RuntimeError, TimeoutError):
            tab.call("Browser.close")
    finally:
        process.terminate()
        process.wait(timeout=60)
        os.close(to_it)
        os.close(from_it)


def axe() -> str:
    """The source of axe-core, fetched once; the test is skipped where it cannot be had."""
    folder = pathlib.Path(pooch.os_cache("subliminal-learning")) / AXE
    source = folder / "package" / "axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        if npm is None or os.environ.get("SUBLIMINAL_OFFLINE"):
            pytest.skip(f"{AXE} is not in the cache, and npm or the network is not to be used")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            pytest.skip(f"npm has no {AXE} here: {done.stderr.strip().splitlines()[-1:]}")
        shutil.unpack_archive(folder / done.stdout.strip(), folder, filter="data")
    return source.read_text()
