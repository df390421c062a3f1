"""What another local user can do with a database folder: ``intrude.py FOLDER`` prints one JSON line."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

folder = Path(sys.argv[1])


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "entered"


connection = socket.socket(socket.AF_UNIX)
print(
    json.dumps(
        {
            "folder": outcome(lambda: list(folder.iterdir())),
            "passfile": outcome((folder / "passfile").read_text),
            "socket": outcome(lambda: connection.connect(str(folder / "run" / ".s.PGSQL.5432"))),
        }
    )
)
