"""A headless Chromium, driven by its DevTools protocol over aiohttp's websockets.

Owns the process, its pages, and what they complained about. The protocol itself, because
this project has aiohttp anyway, and a driver of browsers is larger than all that it would
test here. Blocking on the outside, like the other things of these tests.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

T = TypeVar("T")

START_S: Final = 30.0
ANSWER_S: Final = 30.0
POLL_S: Final = 0.03
NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS: Final = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35,
    "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def program() -> str | None:
    """The browser: $CHROMIUM, else the first that is on PATH; None if there is none."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One process; `close` ends it and all its pages."""

    def __init__(self, chromium: str, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = [
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [chromium, *options, "about:blank"], stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._port = self._listening()
            self._session = self.run(_session())
        except BaseException:
            self.close()
            raise

    def _listening(self) -> int:
        named = self._folder / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError, ValueError, IndexError):
                return int(named.read_text().splitlines()[0])
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "chromium.log").read_text(errors="replace")
                raise AssertionError(f"chromium doesn't start: {log[-2000:]}")
            time.sleep(POLL_S)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def page(self, width: int = 1280, height: int = 900) -> "Page":
        """A new page, of a context of its own: nothing is kept from others."""
        return Page(self, self.run(self._opened()), width, height)

    async def _opened(self) -> aiohttp.ClientWebSocketResponse:
        at = f"http://127.0.0.1:{self._port}/json/new?about:blank"
        async with self._session.put(at) as answer:
            target = await answer.json()
        return await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if hasattr(self, "_session"):
            self.run(self._session.close())
        self._runner.close()
        shutil.rmtree(self._folder / "profile", ignore_errors=True)


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


class Page:
    """One tab; `complaints` is what console, scripts, policy and network complained about."""

    def __init__(
        self,
        browser: Browser,
        socket: aiohttp.ClientWebSocketResponse,
        width: int,
        height: int,
    ) -> None:
        self._browser = browser
        self._socket = socket
        self._last = 0
        self._heard: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(width, height)

    # The protocol

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its result."""
        return self._browser.run(self._send(method, params))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        number = self._last
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(ANSWER_S):
            while True:
                said = json.loads(await self._socket.receive_str())
                if said.get("id") == number:
                    if "error" in said:
                        raise AssertionError(f"{method}: {said['error']}")
                    found: dict[str, Any] = said["result"]
                    return found
                self._event(said.get("method", ""), said.get("params", {}))

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description") or details["text"]
            self.complaints.append(f"exception: {text}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            words = [str(a.get("value", a.get("description"))) for a in params["args"]]
            self.complaints.append(f"console: {' '.join(words)}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    # What tests do

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60.0) -> Any:
        """Evaluate until it is truthy, and return it; fails at the deadline.

        An element comes as an empty object, which is true in JavaScript.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = self.js(expression)
            if found or isinstance(found, dict):
                return found
            if time.monotonic() > deadline:
                text = self.js("document.body.innerText")
                raise AssertionError(
                    f"after {seconds} s still not: {expression}\n{self.complaints}\n{text[:3000]}"
                )
            time.sleep(POLL_S)

    def text(self, selector: str) -> str:
        """All text in the first element that matches, as it is shown."""
        found: str = self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return found

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after another: names of KEYS, or single letters."""
        for key in keys:
            code = KEYS.get(key, ord(key.upper()[0]))
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            common = {
                "key": key,
                "windowsVirtualKeyCode": code,
                "modifiers": 8 if shift else 0,
            }
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Insert text where the focus is, as a paste does."""
        self.send("Input.insertText", text=text)

    def hover(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    def theme(self, name: str, motion: str = "no-preference") -> None:
        """What the system prefers: light or dark."""
        self.send(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": name},
                {"name": "prefers-reduced-motion", "value": motion},
            ],
        )

    def picture(self, path: Path, whole: bool = True, selector: str = "") -> None:
        """A PNG of the page, or of one element's box."""
        clip: dict[str, Any] = {}
        if selector:
            box = self.js(
                f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
                ".getBoundingClientRect(); return [b.x + scrollX, b.y + scrollY, b.width, "
                "b.height] })()"
            )
            x, y, width, height = box
            clip = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1}}
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with suppress(Exception):
            self.send("Page.close")
        self._browser.run(_closed(self._socket))


async def _closed(socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.close()
