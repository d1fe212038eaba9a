"""Whether a tracking server answers: asked within seconds, and told in one sentence."""

import re

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from studies.errors import TrackingError
from studies.knocking import http_answer
from studies.storage.addresses import holds_credentials, is_uri, without_credentials
from studies.storage.sqlite import why_no_file

KNOCK_SECONDS = 5
DATABASES = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""Databases beyond SQLite, and what their drivers call the longest wait for a connection."""


def check_server(uri: str) -> None:
    """Refuse what cannot become a tracking server, or a database of one.

    Raises:
        TrackingError: It does not answer within five seconds, its address holds credentials, or is
            none.
    """
    if uri.startswith("file:") or not (is_uri(uri) or uri.startswith("databricks")):
        raise refusal_of(
            "`--tracking-uri` (or MLFLOW_TRACKING_URI) must be the address of a server, such as "
            "'http://HOST:5000', or of a database, such as 'sqlite:////path/mlflow.db', got "
            f"'{uri}'."
        )
    if (why := why_no_file(uri)) is not None:
        raise refusal_of(f"The MLflow database '{uri}' cannot be used: {why}.")
    if uri.startswith(("http://", "https://")) and holds_credentials(uri):
        raise refusal_of(
            f"The tracking server's address '{uri}' must not hold credentials; put them into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if (said := knock(uri)) is not None:
        raise refusal_of(
            f"The tracking server '{uri}' does not answer ({said}); start it, correct "
            "`--tracking-uri`, or leave that out to use a database beside the results."
        )


def knock(uri: str) -> str | None:
    """Ask a tracking server or a database whether it is there, for no more than seconds.

    MLflow itself would ask for minutes.

    Returns:
        Why it is not; None if it answers.
    """
    try:
        if uri.startswith(("http://", "https://")):
            refusal = http_answer(f"{uri.rstrip('/')}/health", KNOCK_SECONDS)
            # credentials and hosts are checked by the first call
            if refusal is None or refusal.code in {401, 403}:
                return None
            return words_of(refusal)
        kind = uri.partition("://")[0].partition("+")[0]
        if kind in DATABASES:
            wait = {DATABASES[kind]: KNOCK_SECONDS}
            create_engine(uri, poolclass=NullPool, connect_args=wait).connect().close()
    except (OSError, ValueError, ImportError, SQLAlchemyError) as error:
        return words_of(error)
    return None


def words_of(error: Exception) -> str:
    """Return what an error says, without the query that failed and where to read about it."""
    said = re.sub(r"\[SQL:.*|\(Background on this error.*", "", str(error), flags=re.DOTALL)
    said = " ".join(said.split()).rstrip(".") or type(error).__name__
    if isinstance(error, ImportError):
        said += "; install it, or name the driver that is there, as in postgresql+psycopg2://"
    return without_credentials(said)


def refusal_of(said: str) -> TrackingError:
    """Make an error of a sentence that may hold a URI with a password."""
    return TrackingError(without_credentials(" ".join(said.split())))
