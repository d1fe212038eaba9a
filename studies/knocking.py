"""Ask a server whether it is there, for some seconds: its own client would ask for minutes."""

import os
import urllib.request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def http_answer(url: str, seconds: float, *, direct: bool = False) -> HTTPError | None:
    """Ask a server once; one on this machine is asked past any proxy, from here on by all.

    Args:
        url: What to ask for.
        seconds: How long an answer may take.
        direct: Whether to go past any proxy, whatever the server's name.

    Returns:
        None if it answers well; else its refusal, such as that of a missing password.

    Raises:
        OSError: Nobody answers; says if a proxy was asked.
        http.client.HTTPException: What answers is no web server.
        ValueError: The address is none.
    """
    spare_this_machine()
    proxies = [urllib.request.ProxyHandler({})] if direct else []
    try:
        urllib.request.build_opener(*proxies).open(url, timeout=seconds).close()
    except HTTPError as refusal:
        refusal.close()
        return refusal
    except URLError as error:
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if direct or not proxy or urllib.request.proxy_bypass(parts.netloc):
            raise
        raise URLError(
            f"{error.reason}, asked through the proxy '{proxy.rpartition('@')[2]}' of "
            f"{parts.scheme}_proxy; no_proxy={parts.hostname} goes past it"
        ) from error
    return None


def spare_this_machine() -> None:
    """Let no client of this process ask a proxy for a server on this machine.

    A proxy answers for its own loopback. ``urllib`` and MLflow's and Ray's clients read
    ``no_proxy`` at each request, and ``NO_PROXY`` only without it.
    """
    if not urllib.request.getproxies_environment():
        return
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if missing := [host for host in THIS_MACHINE if host not in hosts and "*" not in hosts]:
        os.environ["no_proxy"] = ",".join([*hosts, *missing])
