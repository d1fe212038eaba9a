"""A study as a job of a Ray cluster: submit it, find it again, read its log.

The job gets the resolved study, as a file in a folder of its own, and the command that runs it.
It gets no credentials: it has the environment of the cluster. Nothing else imports
`ray.job_submission`, whose server and client come with ``ray[default]``.
"""

import asyncio
import logging
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from studies.cluster.job_checks import check_installed, checked_address, knock_at_server
from studies.errors import JobError
from studies.study_file.plain_yaml import write_yaml
from studies.study_file.study import Study

for _noisy in (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
):  # they tell of every upload, and set their level themselves when they are imported
    logging.getLogger(_noisy).setLevel(logging.WARNING)

log = logging.getLogger("oat.jobs")

ATTEMPTS = 6
"""Attempts to hand a job in; at each Ray waits 10 s for a process that takes it."""
NOT_READY = "No available agent"
"""What Ray (2.60) says of a cluster that cannot take a job yet."""

STUDY_FILE = "study.yaml"
"""The resolved study in the job's folder."""

STUDY_KEY, STORAGE_KEY = "oat.study", "oat.storage"
"""Keys of a job's metadata, by which it is found again."""

LIVE = frozenset({"PENDING", "RUNNING"})

OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client would follow in place of the address that it is given."""


@dataclass(frozen=True)
class Job:
    """A study's job as the job server has it.

    Attributes:
        id: Ray's submission id.
        study: Name of the study.
        storage: Where its results are.
        job_server: URL of the job server.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        since: When it was submitted or, once it has ended, when it did; by the cluster's clock.
        message: What Ray says of it, in one line.
    """

    id: str
    study: str
    storage: str
    job_server: str
    status: str
    since: datetime
    message: str

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.status in LIVE


class Log:
    """The log of a job, to be read once by iterating over it.

    Attributes:
        job: The job as it was found; after the last piece of a log that is followed, as it ended.
    """

    def __init__(self, server: "JobServer", job: Job, follow: bool) -> None:
        self.job = job
        self._server, self._follow = server, follow

    def __iter__(self) -> Iterator[str]:
        """Yield the text in pieces.

        Raises:
            JobError: The server does not answer any more.
        """
        if not self._follow:
            yield self._server.text(self.job)
            return
        yield from self._server.tail(self.job)
        self.job = self._server.look_up(self.job)
        if self.job.live:
            raise JobError(
                f"The log of job {self.job.id} broke off, but the job is {self.job.status}; "
                "call `oat logs` again."
            )


class JobServer:
    """The job server of one cluster.

    Args:
        address: Its URL, such as ``http://HEAD:8265``.

    Raises:
        JobError: The address is no such URL, nobody answers there, the answer is not that of a
            job server, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        check_installed()
        knock_at_server(self.address)
        with self._asked(), _without(OVERRIDES):
            self._client = JobSubmissionClient(self.address)

    def submit(self, study: Study, storage: str, tracking_uri: str | None = None) -> Job:
        """Submit what `check_travels` has let through; returns as soon as the server has it.

        Args:
            study: The study.
            storage: As every node of the cluster reaches it.
            tracking_uri: MLflow as the cluster reaches it; None leaves it to the environment of
                the cluster.

        Raises:
            JobError: A job of this study and storage has not ended.
        """
        for job in self.jobs(study.name, storage):
            if job.live:
                raise JobError(
                    f"Job {job.id} of study '{study.name}' with this storage is {job.status} on "
                    f"that cluster; follow it with `oat logs`, or end it with `ray job stop "
                    f"{job.id} --address {self.address}`."
                )
        with tempfile.TemporaryDirectory(prefix="oat-job-") as folder:
            text = write_yaml(study.dump())
            (Path(folder) / STUDY_FILE).write_text(text, encoding="utf-8")
            with self._asked():
                submitted = self._submit(
                    entrypoint=entry_point(storage, tracking_uri),
                    runtime_env={"working_dir": folder},
                    metadata={STUDY_KEY: study.name, STORAGE_KEY: _canonical(storage)},
                )
                details = self._client.get_job_info(submitted)
        return self._job(details)

    def _submit(self, **job: Any) -> str:
        """Hand a job in; a cluster that has just started may not be able to take it yet."""
        left = ATTEMPTS
        while True:
            left -= 1
            try:
                return str(self._client.submit_job(**job))
            except RuntimeError as error:
                if NOT_READY not in str(error) or not left:
                    raise
                log.warning("the cluster cannot take a job yet; it is asked again")

    def jobs(self, study: str, storage: str | None = None) -> list[Job]:
        """Return the jobs of a study, the newest first.

        Args:
            study: Name of the study.
            storage: Only those with this storage; None is any.
        """
        with self._asked():
            listed = self._client.list_jobs()
        own = [
            details
            for details in listed
            if details.submission_id is not None
            and (details.metadata or {}).get(STUDY_KEY) == study
            and (storage is None or details.metadata.get(STORAGE_KEY) == _canonical(storage))
        ]
        own.sort(key=lambda details: details.start_time or 0, reverse=True)
        return [self._job(details) for details in own]

    def newest(self, study: str, storage: str | None = None) -> Job | None:
        """Return the newest job of a study, None if the server knows none."""
        return next(iter(self.jobs(study, storage)), None)

    def log(self, study: str, storage: str | None = None, *, follow: bool = False) -> Log:
        """Find the newest job of a study to read its log.

        Raises:
            JobError: The server knows no job of the study.
        """
        job = self.newest(study, storage)
        if job is None:
            there = "" if storage is None else f" with the storage '{storage}'"
            raise JobError(
                f"The job server at {self.address} knows no job of study '{study}'{there}; "
                "`oat submit` submits one. A head that was started anew has forgotten its "
                "jobs; `oat status` reads the results."
            )
        return Log(self, job, follow)

    def look_up(self, job: Job) -> Job:
        """Return a job as it is now."""
        with self._asked():
            return self._job(self._client.get_job_info(job.id))

    def text(self, job: Job) -> str:
        """Return the log of a job so far."""
        with self._asked():
            return str(self._client.get_job_logs(job.id))

    def tail(self, job: Job) -> Iterator[str]:
        """Yield the log of a job in pieces until it ends."""

        async def piece(pieces: AsyncIterator[str]) -> str | None:
            return await anext(pieces, None)

        with asyncio.Runner() as runner, self._asked():
            pieces = self._client.tail_job_logs(job.id)
            try:
                while (text := runner.run(piece(pieces))) is not None:
                    yield text
            finally:
                runner.run(pieces.aclose())

    def _job(self, details: JobDetails) -> Job:
        milliseconds = details.end_time or details.start_time or 0
        message, *_ = (details.message or "").splitlines() or [""]
        return Job(
            id=details.submission_id,
            study=details.metadata[STUDY_KEY],
            storage=details.metadata[STORAGE_KEY],
            job_server=self.address,
            status=details.status.value,
            since=datetime.fromtimestamp(milliseconds / 1000, UTC),
            # the last lines of the log follow in Ray's message
            message=message.partition(", last available logs")[0],
        )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the client raises into one sentence."""
        from aiohttp import ClientError

        try:
            yield
        except AuthenticationError as error:
            raise JobError(
                f"The job server at {self.address} asks for the cluster's token "
                f"({_first_sentence(error.message)}); set `RAY_AUTH_MODE=token` and put the token "
                "into `~/.ray/auth_token`, `RAY_AUTH_TOKEN`, or a file that `RAY_AUTH_TOKEN_PATH` "
                "names."
            ) from error
        except (RuntimeError, OSError, ValueError, KeyError, ClientError) as error:
            raise JobError(
                f"The job server at {self.address} cannot do that ({_first_sentence(str(error))});"
                " check that this is the dashboard of a running cluster."
            ) from error


def entry_point(storage: str, tracking_uri: str | None) -> str:
    """Return the command of the job, for the cluster's shell."""
    words = ["oat", "run", STUDY_FILE, "--storage", storage, "--address", "auto"]
    return shlex.join([*words, *(["--tracking-uri", tracking_uri] if tracking_uri else [])])


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Hide variables of the environment for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _canonical(storage: str) -> str:
    """Return one spelling of a storage, so that it can be compared."""
    if "://" in storage:
        return storage.rstrip("/")
    return str(Path(os.path.normpath(storage)).absolute())


def _first_sentence(text: str) -> str:
    """Return what an answer of the server says first, of a traceback the line that ends it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    line = lines[-1] if "Traceback (most recent call last)" in text else lines[0]
    return line.partition(". ")[0].rstrip(".")
