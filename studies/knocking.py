"""Ask a server whether it is there, for some seconds: its own client would ask for minutes."""

import urllib.request
from urllib.error import HTTPError


def http_answer(url: str, seconds: float, *, direct: bool = False) -> HTTPError | None:
    """Ask a server once.

    Args:
        url: What to ask for.
        seconds: How long an answer may take.
        direct: Whether to go past any proxy, as to a server on this machine.

    Returns:
        None if it answers well; else its refusal, such as that of a missing password.

    Raises:
        OSError: Nobody answers.
        http.client.HTTPException: What answers is no web server.
        ValueError: The address is none.
    """
    proxies = [urllib.request.ProxyHandler({})] if direct else []
    try:
        urllib.request.build_opener(*proxies).open(url, timeout=seconds).close()
    except HTTPError as refusal:
        refusal.close()
        return refusal
    return None
