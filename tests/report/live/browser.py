"""A real browser without a window, spoken to by the DevTools protocol."""

import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--disable-dev-shm-usage',
    '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-extensions',
    '--remote-debugging-port=0',
)  # fmt: skip
START_S, ANSWER_S = 60.0, 60.0


def program() -> str | None:
    """The browser of this machine; None without one."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Tab:
    """A page in the browser; notes the address of each request that it makes."""

    def __init__(self, connection: Any):
        self._connection, self._numbers = connection, itertools.count(1)
        self.requested: list[str] = []
        self.errors: list[str] = []
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer of the browser; events that come before it are noted."""
        number = next(self._numbers)
        self._connection.send(json.dumps({'id': number, 'method': method, 'params': parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=ANSWER_S))
            if message.get('id') == number:
                assert 'error' not in message, message
                return message['result']
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get('params', {})
        if message.get('method') == 'Network.requestWillBeSent':
            self.requested.append(parameters['request']['url'])
        elif message.get('method') == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(parameters['exceptionDetails'])[:1_000])
        elif message.get('method') == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
            self.errors.append(json.dumps(parameters['entry'])[:1_000])

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Of the window; a narrow one is a phone's."""
        phone = width < 600
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        self.call('Emulation.setEmulatedMedia', features=features)

    def open(self, url: str, *, before: str = '') -> None:
        """Goes to an address; `before` is a script that runs ahead of the page's own."""
        if before:
            self.call('Page.addScriptToEvaluateOnNewDocument', source=before)
        self.call('Page.navigate', url=url)
        self.wait('document.readyState === "complete"')

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as JSON holds it."""
        found = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait(self, expression: str, timeout_s: float = ANSWER_S) -> Any:
        """The value of an expression as soon as it is true; true for an element, which has no value."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.value(f'((e) => e instanceof Node ? true : e)({expression})')):
            assert time.monotonic() < deadline, f'{expression} did not become true; {self.errors}'
            time.sleep(0.05)
        return found

    def move(self, x: float, y: float, kind: str = 'mouseMoved', **more: Any) -> None:
        self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, **more)

    def picture(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """A screenshot as PNG: of the window, or of the whole page."""
        found = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found['data']))


@contextlib.contextmanager
def tab(profile: pathlib.Path) -> Iterator[Tab]:
    """A page of a browser of its own, whose files are in `profile`; the browser ends with this context."""
    from websockets.sync import client

    name = program()
    assert name is not None
    command = [name, *FLAGS, f'--user-data-dir={profile}', 'about:blank']
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _port(profile / 'DevToolsActivePort')
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/json/list', timeout=ANSWER_S) as answer:
                address = next(each for each in json.load(answer) if each['type'] == 'page')['webSocketDebuggerUrl']
            with client.connect(address, max_size=2**28, open_timeout=START_S) as connection:
                yield Tab(connection)
        finally:
            process.terminate()


def _port(file: pathlib.Path) -> int:
    """The port that the browser wrote down when it was ready."""
    deadline = time.monotonic() + START_S
    while not (file.exists() and file.read_text().count('\n')):
        assert time.monotonic() < deadline, 'the browser did not start'
        time.sleep(0.05)
    return int(file.read_text().split('\n')[0])
