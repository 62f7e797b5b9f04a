"""A real HTTP server on this machine that misbehaves as it is told, and those who fetch from it."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dualnet.data.fetch import fetch
from dualnet.errors import DataError

DEADLINE_S = 30.0


class FileServer:
    """Serves `files` {name: content} from a thread.

    ranges        whether it knows them
    break_after   bytes after which each answer breaks off, or None
    breaks        how many answers do so
    errors        status codes of the first answers
    pause_s       rest after each `block` bytes
    gate          closed, it holds every answer back
    requests      (name, Range header or None) of each request, in order
    sent          bytes of all answers
    """

    def __init__(self, files):
        self.files, self.ranges, self.break_after, self.breaks = dict(files), True, None, 10**9
        self.errors, self.pause_s, self.block = [], 0.0, 2**16
        self.requests, self.sent = [], 0
        self.gate, self.stopping = threading.Event(), threading.Event()
        self.gate.set()
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE_S)


class _Handler(BaseHTTPRequestHandler):
    site: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        site, name = self.site, self.path.strip("/")
        wanted = self.headers.get("Range")
        site.requests.append((name, wanted))
        site.gate.wait(DEADLINE_S)
        if site.errors:
            return self.send_error(site.errors.pop(0))
        if name not in site.files:
            return self.send_error(404)
        content, start = site.files[name], 0
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._send(content[start:])

    def _send(self, body):
        site = self.site
        if site.break_after is not None and site.breaks > 0:
            site.breaks -= 1
            body = body[:site.break_after]
        try:
            for start in range(0, len(body), site.block):
                self.wfile.write(body[start:start + site.block])
                site.sent += len(body[start:start + site.block])
                if site.pause_s and site.stopping.wait(site.pause_s):
                    return
        except ConnectionError:
            pass  # the client has heard enough


def run(name, folder, server, timeout_s=5.0):
    """All of the reports."""
    return list(fetch(name, folder, timeout_s=timeout_s, mirror=server.url))


def refusal(name, folder, server, timeout_s=5.0):
    with pytest.raises(DataError) as refused:
        run(name, folder, server, timeout_s)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(folder):
    """The files and folders there, but for locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def md5(content):
    return hashlib.md5(content).hexdigest()
