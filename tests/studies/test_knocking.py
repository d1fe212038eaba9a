import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from studies.knocking import http_answer, spare_this_machine


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


@pytest.fixture
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody answers at."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that they are put back
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_past_a_proxy_by_every_client(
    host: str, behind_a_proxy: None
) -> None:
    with _server(200) as url:
        url = url.replace("127.0.0.1", host)
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)
        assert http_answer(url, 5) is None
        assert requests.get(url, timeout=5).ok  # as MLflow's client and Ray's do


def test_hosts_that_go_past_the_proxy_already_are_kept(
    behind_a_proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "storage, .site")
    spare_this_machine()
    assert os.environ["no_proxy"] == "storage,.site,localhost,127.0.0.1,::1"
    spare_this_machine()
    assert os.environ["no_proxy"] == "storage,.site,localhost,127.0.0.1,::1"
    monkeypatch.setenv("no_proxy", "*")
    spare_this_machine()
    assert os.environ["no_proxy"] == "*"


def test_nothing_is_set_where_there_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    spare_this_machine()
    assert "no_proxy" not in os.environ


def test_a_proxy_that_does_not_answer_is_named_without_its_password(behind_a_proxy: None) -> None:
    with pytest.raises(OSError, match="refused, asked through the proxy") as caught:
        http_answer("http://server.invalid:5000/health", 5)
    assert "no_proxy=server.invalid" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(OSError, match=r"not known|resolution") as caught:
        http_answer("http://server.invalid:5000/health", 5, direct=True)
    assert "proxy" not in str(caught.value)


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
