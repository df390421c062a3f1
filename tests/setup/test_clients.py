"""What is handed on to a bare system: addresses and certificates, but no folders of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from setup import clients


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_environments_share(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = tmp_path / "company.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/a b")
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("PIP_FIND_LINKS", "/opt/wheels")
    monkeypatch.setenv("UV_CACHE_DIR", "/somewhere/cache")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    root = tmp_path / "root"
    clients.main(root)
    exported = (root / "etc" / "openinspect-fresh.env").read_text()
    assert "export PIP_INDEX_URL='https://index.example.com/a b'" in exported
    assert "export https_proxy=http://proxy.example.com:3128" in exported
    assert f"export SSL_CERT_FILE={certificate}" in exported
    assert "/opt/wheels" not in exported and "cache" not in exported and "sk-secret" not in exported
    assert (root / certificate.relative_to("/")).read_text() == certificate.read_text()


def test_npms_settings_without_this_machines_folders(home: Path, tmp_path: Path) -> None:
    (home / ".npmrc").write_text(
        "registry=https://npm.example.com/\n//npm.example.com/:_authToken=t0ken\ncache=/var/cache/npm\nprefix = /opt/npm\n; note\n"
    )
    root = tmp_path / "root"
    clients.main(root)
    copied = root / "root" / ".npmrc"
    lines = copied.read_text().splitlines()
    assert "registry=https://npm.example.com/" in lines
    assert "//npm.example.com/:_authToken=t0ken" in lines
    assert not [line for line in lines if line.startswith(("cache", "prefix", ";"))]
    assert copied.stat().st_mode & 0o077 == 0


def test_pips_settings_without_local_indexes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://index.example.com/simple\nextra-index-url = file:///opt/x https://more.example.com/simple\nfind-links = /opt/wheels\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    listing = "\n".join(
        [
            "global.index-url='https://index.example.com/simple'",
            "global.extra-index-url='file:///opt/x https://more.example.com/simple'",
            "global.find-links='/opt/wheels'",
            ":env:.config-file='x'",
        ]
    )
    monkeypatch.setattr(clients, "_said", lambda *command: listing.splitlines() if "pip" in command else [])
    root = tmp_path / "root"
    clients.main(root)
    assert (root / "etc" / "pip.conf").read_text().splitlines() == [
        "[global]",
        "index-url = https://index.example.com/simple",
        "extra-index-url = https://more.example.com/simple",
    ]
