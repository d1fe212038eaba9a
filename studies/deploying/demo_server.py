"""A page on loopback: a server in threads of this process that ends with its block."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from studies.errors import ModelError

HOST = "127.0.0.1"
"""Whoever is on this machine reaches it, and nobody else."""
SILENT_SECONDS = 60
"""How long a connection may say nothing."""


@dataclass(frozen=True)
class DemoPage:
    """A page that is served.

    Attributes:
        address: Where to look.
    """

    address: str

    def wait(self, stop: threading.Event | None = None) -> None:
        """Return when told to stop; None waits for Ctrl-C, which is raised here."""
        (stop or threading.Event()).wait()


class _Handler(WSGIRequestHandler):
    """Answers requests, and writes no line for each."""

    timeout = SILENT_SECONDS

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write nothing: standard error is for what is wrong."""


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on a port of loopback; what connects waits until it is served.

    Args:
        port: 0 for any that is free.

    Raises:
        ModelError: It is taken, or none.
    """
    try:
        listener = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        said = os.strerror(number) if number else str(error).rstrip(".")
        raise ModelError(
            f"`--port` {port} on '{HOST}' cannot be had ({said}); choose another, or 0 for any "
            "that is free."
        ) from error
    with listener:
        yield listener


@contextmanager
def serving(app: Flask, listener: socket.socket, end: Callable[[], None]) -> Iterator[DemoPage]:
    """Serve an application until the block is left.

    Args:
        app: What answers.
        listener: See `listening`.
        end: Called when nothing more is accepted, to wait for what is being computed.
    """
    port = listener.getsockname()[1]
    server = make_server(
        HOST, port, app, threaded=True, request_handler=_Handler, fd=listener.fileno()
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="demo", daemon=True)
    thread.start()
    try:
        yield DemoPage(f"http://{HOST}:{port}/")
    finally:
        server.shutdown()
        thread.join()
        end()
