"""What a box must not be able to do, tried from inside as the runtime (uid 0) and as the agent (uid 1000)."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from openinspect.sandboxes.local import host
from openinspect.sandboxes.local.rootfs import CAPABILITIES, PTYS

from . import inside
from .conftest import INSIDE, Boxes

pytestmark = pytest.mark.anyio

_NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}


async def test_who_one_is_inside(boxes: Boxes) -> None:
    told = await boxes.ask("who")
    root, agent = told["root"], told["agent"]
    few = sum(1 << _NUMBERS[name] for name in CAPABILITIES)
    assert root["ids"] == [0] * 6
    assert root["groups"] == []
    assert set(root["capabilities"].values()) == {few}
    assert root["after_exec"] == few
    assert agent["ids"] == [1000] * 6
    assert set(agent["capabilities"].values()) == {0}
    assert agent["after_exec"] == 0
    for one in (root, agent):
        assert one["no_new_privileges"] == "1"
        assert one["seccomp"] == "2"
        assert one["hostname"] == "sandbox"
        # the server's paths among the cgroups would tell of it
        assert all(line.endswith(":/") for line in one["cgroup"].split())
    assert root["descriptors"][:3] == [0, 1, 2]
    assert len(root["descriptors"]) == 3
    known = {
        "HOME",
        "LANG",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PATH",
        "PWD",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
    }
    assert set(root["environment"]) <= known


async def test_the_host_cannot_be_seen(boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = f"word{secrets.token_hex(6)}"
    (tmp_path / f"{word}-beside").write_text("x")
    boxes.settings.data_dir.mkdir(mode=0o700)
    (boxes.settings.data_dir / f"{word}-key").write_text("x")
    monkeypatch.setenv("OPENINSPECT_SECRET_FOR_TEST", word)
    other, _ = await boxes.start(
        "/bin/sh", "-c", f"touch /workspace/{word} /tmp/{word}; exec sleep 600.5", disk=f"{word}-disk"
    )
    home = str(Path.home())
    told = await boxes.ask("names", word, str(boxes.settings.data_dir), "OPENINSPECT_SECRET_FOR_TEST")
    for one in told.values():
        assert one["found"] == []
        # the question's own command line holds the words; no other does
        assert len(one["in processes"]) in (0, 3)
        # its own processes only: bubblewrap's, the question's, and the agent's
        assert len(one["commands"]) <= 3
        assert "sleep" not in " ".join(one["commands"])
        assert one["home"] == ["agent"]
        assert not {
            "shadow",
            "gshadow",
            "ssh",
            "sudoers",
            "pip.conf",
            "npmrc",
            "wgetrc",
            "fstab",
            "apt",
        } & set(one["etc"])
        assert not {"work", "boot", "lost+found", "old_root"} & set(one["top"])
    paths = (home + "/.ssh", home + "/.bashrc", str(boxes.settings.data_dir), str(tmp_path), "/etc/shadow")
    told = await boxes.ask("opened", *paths)
    for one in told.values():
        assert set(one.values()) <= {"ENOENT", "EACCES"}
    assert other.name == "local"


async def test_there_is_no_way_out_but_the_door(boxes: Boxes) -> None:
    abstract = f"oi-{secrets.token_hex(4)}"
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{abstract}")
        unix.listen()
        told = await boxes.ask("network", server.getsockname()[1], abstract)
    for one in told.values():
        assert one["internet"] == "ENETUNREACH"
        assert one["internet6"] == "ENETUNREACH"
        assert one["metadata"] == "ENETUNREACH"
        assert one["host"] == "ECONNREFUSED"
        assert one["abstract"] == "ECONNREFUSED"
        assert [name.rstrip(":") for name in one["interfaces"] if name != "sit0:"] == ["lo"]
        assert one["routes"] == []
        # AF_PACKET, AF_ALG and AF_VSOCK, which no network namespace confines
        assert one["families"] == {"17": "EAFNOSUPPORT", "38": "EAFNOSUPPORT", "40": "EAFNOSUPPORT"}
        assert one["loopback"] == "done"


def _kernel_settings() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    places = ["/proc/sys", "/sys/kernel", "/sys/module", "/sys/power"]
    for place in places:
        for folder, folders, names in os.walk(place):
            folders[:] = [
                name for name in folders if name not in ("debug", "tracing", "slab", "sections", "notes")
            ]
            for name in names:
                path = Path(folder, name)
                # What nobody can write is a counter, which moves by itself.
                if not path.lstat().st_mode & 0o222:
                    continue
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                except OSError:
                    continue
                try:
                    found[str(path)] = os.read(descriptor, 4096)
                except OSError:
                    continue
                finally:
                    os.close(descriptor)
    return found


async def test_nothing_of_the_host_is_changed_through_proc_and_sys(boxes: Boxes) -> None:
    before, again = _kernel_settings(), _kernel_settings()
    told = await boxes.ask("write_kernel")
    after = _kernel_settings()
    for one in told.values():
        assert one["tried"] > 300
        assert one["took"] == []
    moving = ("/proc/sys/kernel/random/", "/proc/sys/kernel/ns_last_pid")
    changed = {
        path
        for path, value in again.items()
        if before.get(path) == value and after.get(path) != value and not path.startswith(moving)
    }
    assert not changed
    assert before["/proc/sys/kernel/core_pattern"] == after["/proc/sys/kernel/core_pattern"]


async def test_mounts_and_namespaces_are_refused(boxes: Boxes) -> None:
    told = await boxes.ask("mounts")
    for one in told.values():
        assert one.pop("bpf") == "ENOSYS"
        assert one.pop("io_uring") == "ENOSYS"
        assert one.pop("aio") == "ENOSYS"
        assert one.pop("user namespace") in ("ENOSPC", "EPERM")
        assert set(one.values()) == {"EPERM"}, one


async def test_the_door_is_used_but_not_changed(boxes: Boxes) -> None:
    boxes.settings.door_dir.mkdir(parents=True)
    place = boxes.settings.door_dir / "gateway.sock"
    for _ in range(2):
        # the second time as after a restart of the server: another socket at the same place
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as gateway:
            gateway.bind(str(place))
            place.chmod(0o666)
            gateway.listen()
            told = await boxes.ask("door")
        for one in told.values():
            assert one.pop("connect") == "done"
            assert set(one.values()) <= {"EROFS", "EXDEV", "EBUSY", "EPERM", "EACCES"}, one
    assert place.is_socket()
    assert [path.name for path in boxes.settings.door_dir.iterdir()] == ["gateway.sock"]


async def test_a_running_box_reaches_a_door_that_was_made_anew(boxes: Boxes) -> None:
    boxes.settings.door_dir.mkdir(parents=True)
    place = boxes.settings.door_dir / "gateway.sock"
    provider, handle = await boxes.start(
        "/bin/sh",
        "-c",
        "python3 - <<'E'\nimport socket, time\n"
        "heard = []\nend = time.monotonic() + 30\n"
        "while len(heard) < 2 and time.monotonic() < end:\n"
        "    try:\n"
        "        with socket.socket(socket.AF_UNIX) as client:\n"
        "            client.settimeout(5)\n"
        "            client.connect('/opt/openinspect/door/gateway.sock')\n"
        "            word = client.recv(10)\n"
        "            if word and word not in heard: heard.append(word)\n"
        "    except OSError:\n"
        "        time.sleep(0.02)\n"
        "print(b' '.join(heard).decode())\nE",
    )
    for word in (b"first", b"second"):
        place.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as gateway:
            gateway.bind(str(place))
            place.chmod(0o666)
            gateway.listen()
            gateway.settimeout(20)
            client, _ = await asyncio.to_thread(gateway.accept)
            client.sendall(word)
            client.close()
    status = await boxes.ended(provider, handle)
    assert status.log_tail.strip() == "first second"


async def test_setuid_programs_gain_nothing(boxes: Boxes) -> None:
    told = await boxes.ask("setuid")
    assert told["root"]["id"] == "0"
    assert told["agent"]["id"] == "1000"


async def test_the_agent_is_kept_from_the_runtimes_things(boxes: Boxes) -> None:
    agent: dict[str, Any] = (await boxes.ask("agent_may"))["agent"]
    may = {"workspace", "home", "tmp", "var tmp", "shm", "run"}
    assert {name for name, result in agent.items() if result == "done"} == may
    assert {agent[name] for name in agent.keys() - may} <= {"EACCES", "EPERM", "EROFS"}, agent


async def test_the_runtime_can_do_its_work(boxes: Boxes) -> None:
    root = (await boxes.ask("runtime_may"))["root"]
    assert root.pop("chown") == ["done"] * 4
    assert set(root.values()) == {"done"}, root


async def test_no_box_takes_all_that_the_kernel_counts_by_user_or_machine(boxes: Boxes) -> None:
    source = await asyncio.to_thread(INSIDE.read_text)
    greedy, handle = await boxes.start(host.interpreter().inside, "-c", source, "take_all", disk="greedy")
    await boxes.printed(greedy, handle, "taken")
    said = (await greedy.status(handle)).log_tail
    taken = json.loads(said.partition("taken")[2])
    both = {kind: taken[0][kind] + taken[1][kind] for kind in taken[0]}
    assert both.pop("pty") == PTYS
    # enough for development servers and editors
    assert all(count >= 4 for count in both.values()), both
    mine = inside.one_of_each()
    assert set(mine.values()) == {True}, (mine, both)
    theirs = await boxes.ask("one_of_each", disk="modest")
    for one in theirs.values():
        assert set(one.values()) == {True}, (one, both)


async def test_sessions_are_apart(boxes: Boxes) -> None:
    word = f"word{secrets.token_hex(6)}"
    mine, handle = await boxes.start(
        "/bin/sh",
        "-c",
        f"touch /workspace/{word} /home/agent/{word} /tmp/{word} /dev/shm/{word}; echo up; exec sleep 600",
        disk="mine",
    )
    await boxes.printed(mine, handle, "up")
    told = await boxes.ask("names", word, handle["box"], disk="theirs")
    for one in told.values():
        assert one["found"] == []


async def test_a_late_mount_shows_up_in_a_running_box(boxes: Boxes) -> None:
    """``/workspace`` is a shared mount in the holder: this is what 'agent first, files later' stands on."""
    if os.geteuid() != 0:
        pytest.skip("only root may enter the holder's mount namespace from outside")
    provider, handle = await boxes.start(
        "/bin/sh", "-c", "echo up; while ! test -e /workspace/late; do sleep 0.02; done; echo seen"
    )
    await boxes.printed(provider, handle, "up")
    script = "mount -t tmpfs late /mnt/box/workspace && touch /mnt/box/workspace/late"
    entered = await asyncio.create_subprocess_exec(
        "nsenter", "-t", str(handle["pid"]), "-m", "sh", "-c", script
    )
    assert await entered.wait() == 0
    assert "seen" in (await boxes.ended(provider, handle, 10)).log_tail
