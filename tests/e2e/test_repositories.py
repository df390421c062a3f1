"""Repositories that are not as most are, on the real thing: sandbox, gateway, git."""

from __future__ import annotations

from pathlib import Path

import pytest

from openinspect.cli.client import ApiError
from openinspect.testing.live_server import LiveServer
from openinspect.testing.repositories import SampleRepository, git

pytestmark = pytest.mark.timeout(300)

_WORK = "\n".join(
    (
        "write note.txt: a note",
        "run: git add -A && git commit -q -m 'Add a note' && git push -q -u origin HEAD",
        "say: done",
    )
)


@pytest.mark.parametrize("empty", [False, True])
def test_a_sha256_repository_is_worked_on(live: LiveServer, tmp_path: Path, empty: bool) -> None:
    folder = tmp_path / "modern"
    if empty:
        folder.mkdir()
        git("init", "-q", "-b", "main", "--object-format=sha256", at=folder)
    else:
        SampleRepository.create(folder, {"a.txt": "one\n"}, object_format="sha256")
    added = live.api.post("/repositories", {"path": str(folder)})
    session_id, prompt_id = live.session(_WORK, targets=[{"repository": added["name"]}])
    ended = live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
    assert ended["status"] == "completed", ended
    (commit,) = [one["body"] for one in live.events(session_id) if one["body"]["kind"] == "commit"]
    assert len(commit["sha"]) == 64
    work = live.api.get(f"/sessions/{session_id}")["targets"][0]["work_branch"]
    assert git("rev-parse", work, at=folder) == commit["sha"]
    (changed,) = live.api.get(f"/sessions/{session_id}/diff")["repositories"]
    assert [one["path"] for one in changed["files"]] == ["note.txt"]


def test_commits_without_a_branch_are_refused_whenever_that_is_noticed(
    live: LiveServer, tmp_path: Path
) -> None:
    sample = SampleRepository.create(tmp_path / "checkout", {"a.txt": "one\n"})

    def detach() -> None:
        sample.git("checkout", "-q", "--detach")
        sample.git("branch", "-D", "main")

    def refused(path: str, body: dict[str, object]) -> str:
        with pytest.raises(ApiError) as error:
            live.api.post(path, body)
        assert error.value.code == "repository_unusable"
        return f"{error.value} {error.value.remedy}"

    detach()
    said = refused("/repositories", {"path": str(sample.path)})
    assert "no branch" in said and "git switch -c main" in said
    sample.git("switch", "-q", "-c", "main")
    name = live.api.post("/repositories", {"path": str(sample.path)})["name"]
    detach()
    assert "no branch" in refused("/sessions", {"targets": [{"repository": name, "branch": "main"}]})
    session_id, prompt_id = live.session("say: hello", targets=[{"repository": name}])
    ended = live.wait(session_id, "turn.finished", 120, prompt_id=prompt_id)["body"]
    assert ended["status"] == "failed" and "no branch" in ended["reason"], ended
    sample.git("switch", "-q", "-c", "main")
    again = live.api.post(f"/sessions/{session_id}/prompts/{prompt_id}/retry")
    assert live.wait(session_id, "turn.finished", 120, prompt_id=again["id"])["body"]["status"] == "completed"
