"""The files for a deployment: what they promise, and that the guide names the ones that exist."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "openinspect.service"


def service() -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_sandboxes_survive_a_restart_of_the_service() -> None:
    settings = service()
    assert settings["KillMode"] == "process"
    assert settings["Delegate"] == "yes"
    assert settings["OOMPolicy"] == "continue"
    assert "KillSignal" not in settings, "SIGTERM leaves sandboxes running, SIGINT ends them"


def test_nothing_in_the_unit_forbids_user_namespaces() -> None:
    forbidden = {
        "NoNewPrivileges",
        "RestrictNamespaces",
        "SystemCallFilter",
        "PrivateUsers",
        "ProtectProc",
        "ProcSubset",
    }
    forbidden |= {
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "PrivateDevices",
        "PrivateTmp",
    }
    forbidden |= {
        "RestrictSUIDSGID",
        "LockPersonality",
        "RestrictRealtime",
        "MemoryDenyWriteExecute",
        "RestrictAddressFamilies",
    }
    assert forbidden & service().keys() == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(User|Group)=.*", r"\1=root", text, flags=re.MULTILINE)
    copy = tmp_path / "openinspect.service"
    copy.write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False
    )
    about_it = [line for line in said.stderr.splitlines() if "openinspect.service" in line]
    assert about_it == []


def test_what_the_guide_names_exists() -> None:
    for page in (ROOT / "docs" / "how-to" / "deploy.md", ROOT / "docs" / "reference" / "platforms.md"):
        named = set(re.findall(r"\bdeploy/[\w./-]*\w", page.read_text()))
        assert named
        assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("script", ["setup/fresh.sh", ".ci/run", "deploy/systemd/openinspect-command"])
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=30)
