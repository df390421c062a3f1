"""Errors that a person or a program can act on: a stable code, what happened and why, and what to do.

Raised on any floor; the API turns one into an answer with the status of its kind, the CLI into a line and an exit code. Anything else that
is raised is a defect, and is answered as such without its details.
"""

from __future__ import annotations


class ProblemError(Exception):
    """``code`` is for programs, ``message`` says what happened and why, ``remedy`` what to do. None of them ever holds a secret."""

    status = 400

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.code = code
        self.message = message
        self.remedy = remedy


class Invalid(ProblemError):
    """What was asked for makes no sense as it stands."""

    status = 422


class SignInNeeded(ProblemError):
    status = 401


class Forbidden(ProblemError):
    status = 403


class NotFound(ProblemError):
    status = 404


class Conflict(ProblemError):
    """The present state does not allow it."""

    status = 409


class TooLarge(ProblemError):
    status = 413


class TooMany(ProblemError):
    status = 429


class Unavailable(ProblemError):
    """Something that the server needs does not answer; trying again later may help."""

    status = 503
