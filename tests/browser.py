"""A Chromium without a window, driven over its pipe, for tests of pages."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SOFTWARE_3D = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Options of a browser that draws WebGL without a graphics card."""
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "about:blank")


def content_of(page: str) -> dict[str, Any]:
    """-> what a page of the viewer holds."""
    return dict(json.loads(page.split('id="motions">')[1].split("</script>")[0]))


class Browser:
    """One page of it: `faults` are errors, exceptions and broken policies that its console was told of."""

    def __init__(self, process: subprocess.Popen[bytes], writing: int, reading: int) -> None:
        self.process, self.writing, self.reading = process, writing, reading
        self.numbers, self.session, self.rest = itertools.count(1), "", b""
        self.faults: list[str] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(entry["targetId"] for entry in targets if entry["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """-> the answer to one command of the DevTools protocol."""
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        os.write(self.writing, json.dumps({"id": number, "method": method, "params": parameters, **session}).encode())
        os.write(self.writing, b"\0")
        while (told := self._told()).get("id") != number:
            self._note(told)
        assert "error" not in told, told
        return dict(told["result"])

    def _told(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.reading, 1 << 20)
            assert more, "the browser is gone"
            self.rest += more
        first, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(first))

    def _note(self, told: dict[str, Any]) -> None:
        found = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.faults.append(str(found["exceptionDetails"]))
        elif told.get("method") == "Runtime.consoleAPICalled" and found["type"] in ("error", "assert"):
            self.faults.append(str(found["args"]))
        elif told.get("method") == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.faults.append(found["entry"]["text"])

    def open(
        self, place: Path, *, width: int = 1280, height: int = 900, dark: bool = False, calm: bool = False
    ) -> None:
        """Show a file in a window of this size, in light or dark colours; `calm` people want no motion at first."""
        self.faults.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])
        self.call("Page.navigate", url=place.as_uri())
        self.evaluate("document.readyState === 'complete' || new Promise((done) => addEventListener('load', done))")

    def evaluate(self, expression: str) -> Any:
        """-> the value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, as a person presses it."""
        named = {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        code = named.get(key) or ord(key.upper())
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def picture(self) -> bytes:
        """-> the window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Move the pointer with its button down."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            held = 0 if kind == "mouseReleased" else 1
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)


@contextlib.contextmanager
def browsing(profile: Path, *more: str) -> Iterator[Browser]:
    """A browser with a fresh profile and these further options, gone at the end."""
    assert CHROMIUM
    there, writing = os.pipe()
    reading, back = os.pipe()
    script = f'exec "$@" 3<&{there} 4>&{back}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", CHROMIUM, *OPTIONS[:-1], *more, f"--user-data-dir={profile}", OPTIONS[-1]],
        pass_fds=(there, back),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(there)
    os.close(back)
    try:
        yield Browser(process, writing, reading)
    finally:
        process.terminate()
        process.wait(30)
        os.close(writing)
        os.close(reading)
