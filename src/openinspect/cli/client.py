"""How the commands reach a server: the one of this data folder, or any other by OPENINSPECT_URL and OPENINSPECT_TOKEN.

A server writes ``server.json`` (mode 0600: address, token, process) into its data folder when it answers, and removes it when it ends in good order.
Every call is bounded in time; what goes wrong is a ``ProblemError`` with a remedy.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from openinspect.problems import Invalid, ProblemError, Unavailable
from openinspect.settings import Settings

from .words import elsewhere

ELSEWHERE = {
    "OPENINSPECT_URL": "Address of the server, such as `https://inspect.example.com`.",
    "OPENINSPECT_TOKEN": "Token for it: `openinspect tokens create NAME` on the server's machine prints one, or the page's settings. "
    "Needed with `OPENINSPECT_URL`.",
}
"""The environment variables by which the commands reach another server than their data folder's."""
SERVER_FILE = "server.json"
_FOLDER_ID_FILE = "folder-id"
CALL_SECONDS = 60.0
CLONE_SECONDS = 1_860.0
"""The server gives a clone half an hour; a minute more, so that its own words arrive."""
STREAM_SILENCE_SECONDS = 60.0


class ServerRecord(NamedTuple):
    url: str
    token: str
    pid: int
    started: str
    """When the process began, as the kernel counts it: a pid alone may be somebody else's by now."""


class ApiError(ProblemError):
    """The server's own words."""


def process_started(pid: int) -> str | None:
    """The kernel's start time of a process; None when there is none, or it has ended and only nobody has asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] in "ZX" else fields[19]


def read_record(settings: Settings) -> ServerRecord | None:
    """The server of this data folder, if it runs."""
    record = left_record(settings)
    return record if record is not None and process_started(record.pid) == record.started else None


def left_record(settings: Settings) -> ServerRecord | None:
    """The server of this data folder that runs, or that ended without having removed its record: killed, or by an error."""
    try:
        return ServerRecord(**json.loads((settings.data_dir / SERVER_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(settings: Settings, url: str, token: str) -> None:
    path = settings.data_dir / SERVER_FILE
    started = process_started(os.getpid()) or ""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(ServerRecord(url, token, os.getpid(), started)._asdict(), file)
    fresh.replace(path)


def folder_id(settings: Settings) -> str:
    """What tells this data folder from others whose servers are on the same database: made once, kept in the folder."""
    path = settings.data_dir / _FOLDER_ID_FILE
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        found = ""
    if not found:
        found = secrets.token_hex(4)
        path.write_text(found + "\n")
    return found


def remove_record(settings: Settings) -> None:
    (settings.data_dir / SERVER_FILE).unlink(missing_ok=True)


class Client:
    def __init__(self, url: str, token: str, folder: Settings | None = None) -> None:
        """``folder``: the settings whose data folder's server this is; without, it is one elsewhere."""
        self._folder = folder
        self._open(url, token)

    def _open(self, url: str, token: str) -> None:
        self.url, self._token = url, token
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}", "user-agent": "openinspect-cli"},
            timeout=httpx2.Timeout(CALL_SECONDS, connect=10.0),
        )

    def close(self) -> None:
        self._http.close()

    def look_again(self) -> bool:
        """Whether the server has been started anew, on another port or with another token: calls go there from now on.

        Raises ``Unavailable`` when none runs on the data folder at the moment.
        """
        if self._folder is None:
            return False
        record = _running(self._folder)
        if (record.url, record.token) == (self.url, self._token):
            return False
        self._http.close()
        self._open(record.url, record.token)
        return True

    def call(
        self, method: str, path: str, body: Any = None, *, seconds: float | None = None, **params: Any
    ) -> Any:
        """One call of the API; gives its JSON, or None. Raises ``ApiError`` and ``Unavailable``."""
        try:
            answer = self._http.request(
                method,
                f"/api{path}",
                json=body,
                params={key: value for key, value in params.items() if value is not None},
                timeout=seconds or CALL_SECONDS,
            )
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        except UnicodeEncodeError:  # such as the path of a folder that is given as a relative one
            raise Invalid(
                "not_utf8",
                "What is to be sent is not valid UTF-8.",
                "Rename the folder or file whose name is not.",
            ) from None
        if answer.is_error:
            raise _problem(answer.status_code, answer.content)
        return answer.json() if answer.content else None

    def get(self, path: str, **params: Any) -> Any:
        return self.call("GET", path, **params)

    def post(self, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        return self.call("POST", path, body if body is not None else {}, seconds=seconds)

    def upload(self, session_id: str, file: Path) -> str:
        """Attach a picture; gives its id."""
        try:
            with file.open("rb") as content:
                answer = self._http.post(
                    f"/api/sessions/{session_id}/attachments", files={"file": (file.name, content)}
                )
        except OSError as error:
            raise Unavailable(
                "file_unreadable",
                f"{file} can't be read: {error.strerror}.",
                f"See whether it is there: ls -l {file}",
            ) from error
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _problem(answer.status_code, answer.content)
        return answer.json()["id"]

    @contextmanager
    def stream(self, session_id: str, after: int) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages of a session's stream after a cursor. Ends when the server says to resume, or goes."""
        timeout = httpx2.Timeout(10.0, read=STREAM_SILENCE_SECONDS)
        try:
            with self._http.stream(
                "GET", f"/api/sessions/{session_id}/stream", params={"after": after}, timeout=timeout
            ) as answer:
                if answer.is_error:
                    raise _problem(answer.status_code, answer.read())
                yield _messages(answer.iter_lines())
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(
            "server_unreachable",
            f"The server at {self.url} does not answer ({type(error).__name__}).",
            "See whether it runs: `openinspect doctor`; start it with `openinspect up`."
            if self._folder is not None
            else "Check the address in OPENINSPECT_URL, and see on the server's own machine whether it runs there: `openinspect doctor`",
        )


def an_id(text: str, what: str, where: str) -> str:
    """What a person gave as an id, when it can be one: it becomes part of an address. ``where`` says how to find the right one."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", text):
        raise Invalid("no_id", f"“{text}” is no {what}.", where)
    return text


def _messages(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            message = json.loads(line[6:])
            if "type" in message:
                yield message


def _problem(status: int, content: bytes) -> ApiError:
    try:
        told = json.loads(content)["error"]
        problem = ApiError(told["code"], told["message"], told.get("remedy", ""))
    except (ValueError, KeyError, TypeError):
        problem = ApiError(
            "http_error",
            f"The server answered with status {status}.",
            "Its log says why; `openinspect doctor` says where its data folder is.",
        )
    problem.status = status
    return problem


def connect(settings: Settings) -> Client:
    """The server that these commands are for. Raises ``Unavailable`` when none runs, and ``Invalid`` for an address or token that is none."""
    url, token = os.environ.get("OPENINSPECT_URL"), os.environ.get("OPENINSPECT_TOKEN")
    if url:
        return Client(*elsewhere(url, token))
    record = _running(settings)
    return Client(record.url, record.token, settings)


def _running(settings: Settings) -> ServerRecord:
    record = read_record(settings)
    if record is None:
        raise Unavailable(
            "no_server",
            f"No server runs on the data folder {settings.data_dir}.",
            "Start one with `openinspect up`, or name another by OPENINSPECT_DATA_DIR or OPENINSPECT_URL.",
        )
    return record
