"""What the tests of jobs share."""

import socket
import subprocess

Ended = subprocess.CompletedProcess[str]


def free_ports_of(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(bound.getsockname()[1]) for bound in with_ports]
    for bound in with_ports:
        bound.close()
    return ports


def is_a_sentence(ended: Ended, *words: str) -> None:
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    for word in words:
        assert word in ended.stderr
