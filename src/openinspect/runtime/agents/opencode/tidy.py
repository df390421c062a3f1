"""OpenCode adds a ``$schema`` line to a configuration that has none, wherever it finds one: in a repository that is nobody's change.

It is taken out again where it is all that was changed, as the agent and through git.
"""

from __future__ import annotations

import re
from pathlib import Path

from openinspect.runtime.git import Git

_FILES = ("opencode.json", "opencode.jsonc", ".opencode/opencode.json", ".opencode/opencode.jsonc")
_BEGIN = re.compile(rb"^\s*\{")
_ADDED = b'{\n  "$schema": "https://opencode.ai/config.json",'


async def tidy(git: Git, folder: Path) -> None:
    """Put configurations back that only got that line."""
    listed = await git.look(folder, "diff", "--name-only", "-z", "--no-ext-diff", "--", *_FILES)
    for name in filter(None, listed.stdout.decode(errors="replace").split("\0")):
        before = await git.look(folder, "cat-file", "blob", f":{name}")
        if before.code != 0:
            continue
        # the file is the agent's, however large and wherever it leads: git reads it, as the agent
        with_line = _BEGIN.sub(lambda _: _ADDED, before.stdout, count=1)
        now = await git.look(folder, "hash-object", "--no-filters", "--", name)
        expected = await git.look(folder, "hash-object", "--no-filters", "--stdin", stdin=with_line)
        if now.code == expected.code == 0 and now.stdout == expected.stdout:
            await git.run(folder, "checkout", "--quiet", "--", name)
