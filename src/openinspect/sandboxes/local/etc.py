"""A box's ``/etc``: written here, with what programs need of the host's by an allow-list.

Never the whole of the host's ``/etc``: it holds password hashes, keys, package indexes' and proxies' credentials. Folders are bound read-only,
single files are copied.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .plan import AGENT

HOSTNAME = "sandbox"

_WRITTEN = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nagent:x:{AGENT}:{AGENT}:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\ntty:x:5:\nagent:x:{AGENT}:\nnogroup:x:65534:\n",
    "shells": "/bin/sh\n/bin/bash\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
    "hostname": f"{HOSTNAME}\n",
    "host.conf": "multi on\n",
    "resolv.conf": "# There is no network here: everything goes through the gateway.\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\nprotocols: files\nservices: files\nrpc: files\n",
    "gitconfig": "",
    "profile": "umask 022\n",
    "bash.bashrc": "[ -z \"$PS1\" ] || PS1='\\u:\\w\\$ '\n",
    "environment": "",
}

_COPIED = (
    "debian_version",
    "fedora-release",
    "lsb-release",
    "os-release",
    "redhat-release",
    "ca-certificates.conf",
    "gai.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "magic.mime",
    "mailcap",
    "manpath.config",
    "maven/m2.conf",
    "mime.types",
    "networks",
    "papersize",
    "protocols",
    "rpc",
    "services",
    "ssl/openssl.cnf",
    "timezone",
)
_COPIED_AT_MOST = 4 * 1024 * 1024

_BOUND = (
    "ImageMagick-*",
    "OpenCL",
    "alternatives",
    "chromium",
    "chromium.d",
    "crypto-policies",
    "fonts",
    "java-*",
    "ld.so.conf.d",
    "maven/logging",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "python3*",
    "sgml",
    "ssl/certs",
    "terminfo",
    "xml",
)


def bound(host: Path = Path("/etc")) -> list[str]:
    """Folders of the host's ``/etc`` that a box sees, relative to it."""
    return sorted(
        str(path.relative_to(host)) for pattern in _BOUND for path in host.glob(pattern) if path.is_dir()
    )


def write(target: Path, owner: int, host: Path = Path("/etc")) -> None:
    """Fills ``target``; all of it belongs to ``owner``, the box's uid 0."""
    for name, text in _WRITTEN.items():
        (target / name).write_text(text)
    (target / "machine-id").write_text(secrets.token_hex(16) + "\n")
    (target / "mtab").symlink_to("/proc/self/mounts")
    for name in _COPIED:
        _copy(host / name, target / name)
    for folder, folders, names in os.walk(target):
        for name in (*folders, *names):
            os.chown(Path(folder) / name, owner, owner, follow_symlinks=False)
    os.chown(target, owner, owner)


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink() and str(source.readlink()).lstrip("./").startswith("usr/"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif source.is_file() and source.stat().st_size <= _COPIED_AT_MOST and source.stat().st_mode & 0o004:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
