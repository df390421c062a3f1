"""The page's types are those of the API that the server has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from setup.toolbox import TOOLBOX

WEB = Path(__file__).parents[2] / "web"


def test_the_types_of_the_page_are_what_the_server_says() -> None:
    if not (WEB / "node_modules" / "openapi-typescript").is_dir():
        pytest.skip("the web app's packages are not there: run `npm ci` in web/")
    done = subprocess.run(
        [TOOLBOX / "bin" / "node", "scripts/api.mjs", "--check"],
        cwd=WEB,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
