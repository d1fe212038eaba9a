import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from studies.knocking import http_answer


@contextmanager
def _server(code: int) -> Iterator[str]:
    """Serve one status code for everything."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/health"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_answers_has_nothing_to_refuse() -> None:
    with _server(200) as url:
        assert http_answer(url, 5) is None


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_a_refusal_is_an_answer(code: int) -> None:
    with _server(code) as url:
        refusal = http_answer(url, 5, direct=True)
    assert refusal is not None
    assert refusal.code == code


def test_a_proxy_is_gone_past_where_the_server_is_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with _server(200) as url:
        assert http_answer(url, 5, direct=True) is None
        with pytest.raises(OSError, match="refused"):
            http_answer(url, 5)


def test_silence_and_noise_are_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(OSError, match="timed out"):
            http_answer(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.2)
        port = silent.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        http_answer(f"http://127.0.0.1:{port}/", 5)
    with socket.create_server(("127.0.0.1", 0)) as noisy:

        def make_noise() -> None:
            with noisy.accept()[0] as asked:
                asked.recv(1000)
                asked.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=make_noise)
        thread.start()
        with pytest.raises(HTTPException):
            http_answer(f"http://127.0.0.1:{noisy.getsockname()[1]}/", 5)
        thread.join()
