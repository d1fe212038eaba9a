"""Addresses of folders and servers: what may stand in them, and what of them may be shown."""

import re
from urllib.parse import parse_qsl, quote

DEFAULT_STORAGE = "./outputs"
"""Folder of results where none is named."""

SECRET = re.compile("pass|secret|token|key|credential|sas", re.IGNORECASE)
"""What the name of a parameter holds that carries a secret."""

LOGIN = re.compile(r"[^/?#@]*:(?!\d+(?:[/?#]|$))[^@]*@")
"""``user:password@``; a colon before a port is none of it, slashes in a password may be."""


def is_uri(place: object) -> bool:
    """Whether a place is a URI and not a path."""
    return "://" in str(place)


def holds_credentials(uri: str) -> bool:
    """Whether a URI carries a password, a token or a key, before its host or as a parameter."""
    kind, _, rest = uri.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    told = LOGIN.match(rest) is not None
    if kind in {"s3", "http", "https"}:  # elsewhere a bare user is no secret
        told |= "@" in host
    if kind == "s3":  # a bucket has no port
        told |= ":" in host
    query = rest.partition("?")[2].partition("#")[0]
    return told or any(SECRET.search(name) for name, _ in parse_qsl(query))


def below(uri: str, name: str) -> str:
    """Return the URI of what is called ``name`` below another; its parameters stay behind it."""
    place, mark, query = uri.partition("?")
    return f"{place.rstrip('/')}/{quote(name)}{mark}{query}"


def without_credentials(text: str) -> str:
    """Leave out what may be secret of every URI in a text.

    That is user and password, and the parameters but those of S3, which say where its server is.
    """
    text = re.sub(r"(?<=://)[^/\s'\"][^\s'\"]*@", "", text)
    return re.sub(r"(\w*://[^\s'\"?#]*)[?#][^\s'\"]*", _harmless, text)


def _harmless(uri: re.Match[str]) -> str:
    whole, place = uri[0], uri[1]
    return whole if place.startswith("s3:") and not holds_credentials(whole) else place
