"""The doctor looks at the real machine; what is wrong is made wrong for real: a broken toolbox, a port in use, a folder that can't be written."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from pydantic import SecretStr

from openinspect import doctor
from openinspect.doctor import run_checks
from openinspect.sandboxes.provider import Finding, SandboxProvider
from openinspect.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_API_KEY", "OPENINSPECT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Settings(data_dir=tmp_path / "data", port=0)


def the(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


class Answers:
    """A provider of which only the check is asked."""

    name = "answering"

    async def check(self) -> list[Finding]:
        return [Finding(name="bubblewrap", state="ok", detail="0.8.0")]


class Breaks:
    name = "breaking"

    async def check(self) -> list[Finding]:
        raise RuntimeError("a detail that nobody should see")


class Hangs:
    name = "hanging"

    async def check(self) -> list[Finding]:
        await anyio.sleep_forever()
        return []


def providers(*some: Any) -> list[SandboxProvider]:
    return cast(list[SandboxProvider], list(some))


@pytest.mark.anyio
async def test_every_finding_that_is_not_ok_has_a_remedy(settings: Settings) -> None:
    findings = await run_checks(settings)
    assert {"system", "git", "toolbox", "database", "data folder", "port", "address", "models"} <= {
        f.name for f in findings
    }
    assert [f for f in findings if f.state != "ok" and not f.remedy] == []


def test_looking_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    anyio.run(run_checks, settings, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_providers_are_asked_and_one_that_breaks_hides_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECK_SECONDS", 3.0)
    findings = await run_checks(settings, providers(Breaks(), Hangs(), Answers()))
    assert the(findings, "bubblewrap").state == "ok"
    assert the(findings, "breaking sandboxes").state == "failed"
    assert "nobody should see" not in the(findings, "breaking sandboxes").detail
    assert "did not end" in the(findings, "hanging sandboxes").detail


@pytest.mark.anyio
async def test_a_missing_toolbox_says_how_to_get_one(settings: Settings, tmp_path: Path) -> None:
    bare = settings.model_copy(update={"toolbox_dir": tmp_path / "nowhere"})
    finding = doctor.check_toolbox(bare)
    assert finding.state == "failed"
    assert "make" in finding.remedy


def test_a_toolbox_that_does_not_start_is_found(settings: Settings, tmp_path: Path) -> None:
    binaries = tmp_path / "toolbox" / "bin"
    binaries.mkdir(parents=True)
    for name, body in {"node": "#!/bin/sh\necho v24.0.0\n", "opencode": "#!/bin/sh\nexit 1\n"}.items():
        (binaries / name).write_text(body)
        (binaries / name).chmod(0o755)
    finding = doctor.check_toolbox(settings.model_copy(update={"toolbox_dir": binaries.parent}))
    assert finding.state == "failed"
    assert "OpenCode" in finding.detail and "Node" not in finding.detail.split(" in ")[0]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield busy.getsockname()[1]


def test_a_port_in_use_names_who_has_it(settings: Settings, listener: int) -> None:
    finding = doctor.check_port(settings.model_copy(update={"port": listener}))
    assert "is in use by process" in finding.detail or "served by openinspect" in finding.detail


def test_a_port_is_well_served_by_this_data_folders_server_alone(settings: Settings, listener: int) -> None:
    chosen = settings.model_copy(update={"port": listener})
    assert doctor.check_port(chosen, os.getpid()).state == "ok"
    assert "this data folder's server" in doctor.check_port(chosen, os.getpid()).detail
    assert doctor.check_port(chosen).state == "warning"
    assert "OPENINSPECT_PORT" in doctor.check_port(chosen).remedy


def test_an_address_of_another_machine_is_refused(settings: Settings) -> None:
    finding = doctor.check_port(settings.model_copy(update={"host": "192.0.2.1", "port": 8910}))
    assert finding.state == "failed"
    assert "OPENINSPECT_HOST" in finding.remedy


def test_a_data_folder_that_is_a_file_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    finding = doctor.check_data_folder(settings)
    assert finding.state == "failed"
    assert "OPENINSPECT_DATA_DIR" in finding.remedy


def test_a_server_that_does_not_answer_keeps_its_password_to_itself(settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    url = SecretStr(f"postgresql://someone:hunter2@127.0.0.1:{port}/x")
    finding = doctor.check_database(settings.model_copy(update={"database_url": url}))
    assert finding.state == "failed"
    assert "hunter2" not in finding.model_dump_json()


@pytest.mark.parametrize(
    ("host", "public_url", "state"),
    [
        ("127.0.0.1", None, "ok"),
        ("0.0.0.0", None, "warning"),
        ("127.0.0.1", "http://inspect.example.com", "warning"),
        ("127.0.0.1", "https://inspect.example.com", "ok"),
    ],
)
def test_an_address_without_encryption_is_pointed_out(
    settings: Settings, host: str, public_url: str | None, state: str
) -> None:
    finding = doctor.check_address(settings.model_copy(update={"host": host, "public_url": public_url}))
    assert finding.state == state
