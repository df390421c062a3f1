"""The scripted model as a program.

    python -m openinspect.testing.model_server --port 0 --script demo

It prints one line with its address and listens on the loopback only. With `OPENINSPECT_SCRIPTED_MODEL_KEY` set, requests
with another key are refused. Ends with 0 on SIGTERM or Ctrl-C, with 1 and a message when the script or port is no good.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Annotated

import typer

from openinspect.testing.application import ModelServer, listen, uvicorn_for
from openinspect.testing.script import ScriptError, load

KEY_VARIABLE = "OPENINSPECT_SCRIPTED_MODEL_KEY"


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 chooses one.")] = 0,
    script: Annotated[str, typer.Option(help="A script file, or the name of a shipped one.")] = "demo",
    delay_ms: Annotated[
        float | None, typer.Option(min=0, help="Pause before each word, instead of the script's own.")
    ] = None,
) -> None:
    """Play a script as a model server on the loopback, until SIGTERM or Ctrl-C."""
    try:
        loaded = load(script if re.fullmatch(r"[\w-]+", script) else Path(script))
        bound = listen(port)
    except ScriptError as error:
        raise SystemExit(f"scripted model: {error}") from error
    except OSError as error:
        raise SystemExit(
            f"scripted model: can't listen on 127.0.0.1:{port}: {error.strerror}. Choose another --port, or 0."
        ) from error
    server = ModelServer(loaded, delay_ms=delay_ms, key=os.environ.get(KEY_VARIABLE) or None)
    running = uvicorn_for(server.app)

    def end(*_: object) -> None:
        running.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    print(
        f"scripted model “{loaded.name}” listening on http://127.0.0.1:{bound.getsockname()[1]}", flush=True
    )
    running.run(sockets=[bound])


if __name__ == "__main__":
    typer.run(main)
