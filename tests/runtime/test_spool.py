"""The spool: nothing lost, nothing doubled, whatever is torn, dropped or read at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openinspect.runtime.spool import MAX_RECORD_BYTES, SpoolReader, SpoolWriter

records = st.lists(st.binary(min_size=1, max_size=400), max_size=40)
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def everything(folder: Path, first: int, last: int) -> list[bytes]:
    reader = SpoolReader(folder)
    found: list[bytes] = []
    while first + len(found) <= last:
        began, more = reader.read(first + len(found), last, 7, 2_000)
        assert more and began == first + len(found)
        found += more
    reader.close()
    return found


@quick
@given(batches=st.lists(records, max_size=8), segment=st.integers(64, 3_000))
def test_what_was_appended_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], segment: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder, "box_1", segment)
    for batch in batches:
        if batch:
            writer.append(batch)
    flat = [record for batch in batches for record in batch]
    assert writer.last == len(flat)
    assert everything(folder, 1, writer.last) == flat
    writer.close()
    again = SpoolWriter(folder, "box_1", segment)
    assert again.last == len(flat)
    assert everything(folder, 1, again.last) == flat


@quick
@given(
    batch=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=30),
    cut=st.integers(0, 6_000),
    more=records,
    junk=st.binary(max_size=30),
)
def test_a_torn_end_is_cut_off_and_written_over(
    tmp_path_factory: pytest.TempPathFactory, batch: list[bytes], cut: int, more: list[bytes], junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder, "box_1")
    writer.append(batch)
    writer.close()
    (path,) = folder.glob("*.seg")
    size = path.stat().st_size
    kept = max(0, size - cut)
    os.truncate(path, kept)
    if junk and kept < size:
        with path.open("ab") as file:
            file.write(junk)
    again = SpoolWriter(folder, "box_1")
    survived = again.last
    assert 0 <= survived <= len(batch)
    ends, offset = [], 0
    for record in batch:
        offset += 8 + len(record)
        ends.append(offset)
    assert survived >= sum(end <= kept for end in ends)
    if more:
        again.append(more)
    assert everything(folder, 1, again.last)[:survived] == batch[:survived]
    assert everything(folder, 1, again.last)[survived:] == more


@quick
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20), st.integers(0, 100)
        ),
        max_size=25,
    )
)
def test_what_is_dropped_goes_and_the_rest_stays(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[bytes] | int]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder, "box_1", 1_000)
    reader = SpoolReader(folder)
    flat: list[bytes] = []
    dropped = 0
    for step in steps:
        if isinstance(step, list):
            writer.append(step)
            flat += step
        else:
            dropped = max(dropped, len(flat) * step // 100)
            writer.drop(dropped)
        if dropped < writer.last:
            first, found = reader.read(dropped + 1, writer.last, 500, 1 << 20)
            assert first == dropped + 1 and found == flat[dropped : dropped + len(found)] and found
    assert everything(folder, dropped + 1, writer.last) == flat[dropped:]
    assert writer.held_bytes == sum(path.stat().st_size for path in folder.glob("*.seg"))
    writer.drop(writer.last)
    assert writer.held_bytes <= 1_000 + 20 * 308
    writer.close()
    assert SpoolWriter(folder, "box_1", 1_000).last == len(flat)


def test_another_sandbox_begins_anew(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "box_1")
    writer.append([b"one", b"two"])
    writer.close()
    other = SpoolWriter(tmp_path, "box_2")
    assert other.last == 0
    other.append([b"three"])
    assert everything(tmp_path, 1, 1) == [b"three"]


def test_numbers_that_were_counted_elsewhere_are_left_out(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "box_1")
    writer.drop(41)
    assert writer.append([b"next"]) == 42
    writer.close()
    assert SpoolWriter(tmp_path, "box_1").last == 42
    assert everything(tmp_path, 42, 42) == [b"next"]


def test_a_disk_that_is_full_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, "box_1")
    writer.append([b"one"])
    real = os.write

    def half(fd: int, data: bytes) -> int:
        real(fd, bytes(data)[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        writer.append([b"two"])
    monkeypatch.undo()
    assert writer.append([b"three"]) == 2
    assert everything(tmp_path, 1, 2) == [b"one", b"three"]


def test_records_have_bounds(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "box_1")
    for bad in (b"", b"x" * (MAX_RECORD_BYTES + 1)):
        with pytest.raises(ValueError, match="a spool record has"):
            writer.append([bad])
    writer.append([b"x" * MAX_RECORD_BYTES])
    assert len(everything(tmp_path, 1, 1)[0]) == MAX_RECORD_BYTES


_WRITE_FOR_EVER = """
import sys
from pathlib import Path
from openinspect.runtime.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), "box_1", 20_000)
n = writer.last
while True:
    writer.append([b"%d" % (n + i + 1) for i in range(10)])
    n += 10
    print(n, flush=True)
"""


def test_kill_9_of_the_writer_loses_nothing_that_it_said_was_there(tmp_path: Path) -> None:
    promised = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        deadline = time.monotonic() + 20
        promised_now = 0
        for line in process.stdout:
            promised_now = int(line)
            if promised_now >= promised + 500 or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        writer = SpoolWriter(tmp_path, "box_1", 20_000)
        assert writer.last >= int(rest[-2] if len(rest) > 1 else promised_now)
        promised = writer.last
        assert everything(tmp_path, 1, writer.last) == [b"%d" % n for n in range(1, writer.last + 1)]
        writer.close()
