"""What the user can mend: each message is one sentence a fault, with the cure."""


class UserError(Exception):
    """Something the user asked for cannot be done; the command exits with code 2."""


class StudyError(UserError):
    """The study is faulty, or cannot run here."""


class StorageError(UserError, OSError):
    """The storage cannot be reached, read or written."""


class TrackingError(UserError):
    """The tracking server does not answer, or refuses."""


class ComparisonError(UserError):
    """The points cannot be compared."""


class QueryError(UserError):
    """A condition or a column that is asked for does not exist, or cannot be understood."""


class JobError(UserError):
    """The job server of a cluster does not answer, refuses, or knows no such job."""


class TuningError(UserError):
    """The study cannot be tuned so, or Optuna's storage does not take it."""


class ModelError(UserError, ValueError):
    """A trained model is not there, or does not do what is asked of it."""
