"""A headless Chromium, spoken to through a pipe in its DevTools protocol."""

import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
  "--no-sandbox",  # root cannot use it; the pages are ours
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
)
# Its input is to be descriptor 3, its output 4.
_LAUNCH = """
import os, sys
ends = [os.dup(int(end)) for end in sys.argv[1:3]]
while any(end < 5 for end in ends):
  ends = [os.dup(end) for end in ends]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_SECONDS = 30  # that a page may take to get there


def find_browser() -> str | None:
  """Returns the path of a Chromium; None if there is none."""
  return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
  """One page of a browser of its own; to be closed."""

  def __init__(self, profile: pathlib.Path):
    """Starts it.

    Args:
      profile: an empty folder.
    """
    from_it, its_output = os.pipe()
    its_input, to_it = os.pipe()
    ends = (its_input, its_output)
    flags = ["--headless", "--remote-debugging-pipe", *_FLAGS]
    flags += [f"--user-data-dir={profile}", "about:blank"]
    self._process = subprocess.Popen(
      [
        *(sys.executable, "-c", _LAUNCH, *map(str, ends)),
        *(find_browser(), *flags),
      ],
      pass_fds=ends,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for end in ends:
      os.close(end)
    self._read = os.fdopen(from_it, "rb", buffering=0)
    self._write = os.fdopen(to_it, "wb", buffering=0)
    self._numbers, self._rest = itertools.count(1), b""
    self.errors: list[str] = []  # of scripts, and of what was to be loaded
    self._session = None
    page = self._call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self._call(
      "Target.attachToTarget", targetId=page, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
      self._call(f"{domain}.enable")

  def open(self, page: pathlib.Path, state: str = "") -> None:
    """Opens a file.

    Args:
      page: its path.
      state: what follows # in the address.
    """
    self._call("Page.navigate", url="about:blank")
    self._call("Page.navigate", url=f"{page.as_uri()}{state and f'#{state}'}")
    self.wait("document.readyState === 'complete'")

  def run(self, script: str):
    """Returns the value of a JavaScript expression, awaited."""
    done = self._call(
      "Runtime.evaluate",
      expression=script,
      returnByValue=True,
      awaitPromise=True,
    )
    if "exceptionDetails" in done:
      raise AssertionError(json.dumps(done["exceptionDetails"], indent=1))
    return done["result"].get("value")

  def wait(self, script: str) -> None:
    """Waits until a JavaScript expression is true."""
    end = time.monotonic() + _SECONDS
    while not self.run(script):
      assert time.monotonic() < end, f"never: {script}"
      time.sleep(0.01)

  def press(self, key: str) -> None:
    """Presses a key, where the focus is."""
    text = {"text": key} if len(key) == 1 else {}
    if key == "Enter":  # which clicks a button that has the focus
      text = {"text": "\r", "windowsVirtualKeyCode": 13}
    for kind in ("keyDown", "keyUp"):
      self._call("Input.dispatchKeyEvent", type=kind, key=key, **text)

  def choose(self, name: str, value: str) -> None:
    """Gives a field of the page's form a value, as a user does."""
    self.run(
      f"(() => {{ const field = document.forms[0].elements[{json.dumps(name)}];"
      f" field.value = {json.dumps(value)}; (field.length && field.tagName !=="
      " 'SELECT' ? field[0] : field).dispatchEvent(new Event('input', {bubbles:"
      " true})); })()"
    )

  def resize(self, width: int, height: int = 1000) -> None:
    """Gives the page a size, in CSS pixels."""
    self._call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )

  def emulate(self, media: str = "screen", scheme: str = "light") -> None:
    """Shows the page as on screen or in print, in light or dark mode."""
    self._call(
      "Emulation.setEmulatedMedia",
      media=media,
      features=[{"name": "prefers-color-scheme", "value": scheme}],
    )

  def screenshot(self, path: pathlib.Path, width: int, height: int) -> None:
    """Writes a picture of the page at a size."""
    self.resize(width, height)
    time.sleep(0.3)
    shot = self._call("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(shot["data"]))

  def close(self) -> None:
    """Ends the browser."""
    self._write.close()
    self._read.close()
    self._process.terminate()
    self._process.wait()

  def _call(self, method: str, **params):
    number = next(self._numbers)
    message = {"id": number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    self._write.write(json.dumps(message).encode() + b"\0")
    while True:
      answer = self._receive()
      if answer.get("id") == number:
        assert "error" not in answer, (method, answer)
        return answer["result"]
      if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
        self.errors.append(json.dumps(answer["params"]))

  def _receive(self) -> dict:
    while b"\0" not in self._rest:
      data = self._read.read(1 << 20)
      assert data, "the browser has ended"
      self._rest += data
    message, _, self._rest = self._rest.partition(b"\0")
    return json.loads(message)
