"""A sandbox's files are nobody's friends: reading its spool leads nowhere else, takes bounded time, and gives what is whole."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openinspect.runtime.spool import SpoolWriter
from openinspect.sandboxes import spools
from openinspect.sandboxes.provider import MOST_SPOOLED, Spooled


def spool(tmp_path: Path, records: list[bytes], segment_bytes: int = 200) -> SpoolWriter:
    writer = SpoolWriter(tmp_path / "state" / "spool", "box", segment_bytes)
    for record in records:
        writer.append([record])
    return writer


def everything(state: Path, after: int = 0) -> list[bytes]:
    found: list[bytes] = []
    while (more := spools.read(state, after + len(found))).records:
        assert more.first == after + len(found) + 1
        found += more.records
    return found


NUMBERED = [b"record %d" % n for n in range(1, 101)]


def test_what_is_left_is_read_from_any_number_on(tmp_path: Path) -> None:
    spool(tmp_path, NUMBERED)
    state = tmp_path / "state"
    assert everything(state) == NUMBERED
    for after in (1, 17, 50, 99, 100, 1_000):
        assert everything(state, after) == NUMBERED[after:]


def test_what_was_counted_is_gone_and_the_rest_has_its_number(tmp_path: Path) -> None:
    spool(tmp_path, NUMBERED).drop(60)
    first, records = spools.read(tmp_path / "state", 0)
    assert 1 < first <= 61 and records == NUMBERED[first - 1 :]


def test_much_comes_in_pieces(tmp_path: Path) -> None:
    many = [b"%d" % n for n in range(2 * MOST_SPOOLED + 1)]
    spool(tmp_path, many, 50_000)
    assert len(spools.read(tmp_path / "state", 0).records) == MOST_SPOOLED
    assert everything(tmp_path / "state") == many


def test_large_records_come_few_at_a_time(tmp_path: Path) -> None:
    large = [bytes([n]) * 3_000_000 for n in range(1, 6)]
    spool(tmp_path, large, 4 << 20)
    assert len(spools.read(tmp_path / "state", 0).records) == 2
    assert everything(tmp_path / "state") == large


def test_no_box_and_no_spool_have_nothing(tmp_path: Path) -> None:
    assert spools.read(tmp_path / "never", 3) == Spooled(4, [])
    (tmp_path / "state").mkdir()
    assert spools.read(tmp_path / "state", 3) == Spooled(4, [])
    (tmp_path / "state" / "spool").write_text("a file")
    assert spools.read(tmp_path / "state", 3) == Spooled(4, [])


@pytest.mark.parametrize("place", ["spool", "segment"])
def test_no_link_is_followed(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "elsewhere"
    spool(secret, [b"of the host"])
    there = secret / "state" / "spool"
    state = tmp_path / "state"
    state.mkdir()
    if place == "spool":
        (state / "spool").symlink_to(there)
    else:
        (state / "spool").mkdir()
        (state / "spool" / f"{1:020d}.seg").symlink_to(there / f"{1:020d}.seg")
    assert spools.read(state, 0) == Spooled(1, [])


def test_a_link_that_takes_a_file_s_place_is_not_followed(tmp_path: Path) -> None:
    spool(tmp_path, NUMBERED[:5], 10_000)
    folder = tmp_path / "state" / "spool"
    (tmp_path / "secret").write_bytes((folder / f"{1:020d}.seg").read_bytes())
    (folder / f"{1:020d}.seg").unlink()
    (folder / f"{1:020d}.seg").symlink_to(tmp_path / "secret")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with pytest.raises(OSError):
            spools._content(descriptor, f"{1:020d}.seg")
    finally:
        os.close(descriptor)


def test_a_pipe_does_not_hold_the_reader_up(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    folder.mkdir(parents=True)
    os.mkfifo(folder / f"{1:020d}.seg")
    (folder / f"{2:020d}.seg").mkdir()
    assert spools.read(tmp_path / "state", 0) == Spooled(1, [])
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert spools._content(descriptor, f"{1:020d}.seg") == b""
    finally:
        os.close(descriptor)


def test_a_file_without_end_is_read_to_a_bound(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    folder.mkdir(parents=True)
    record = b"the only one"
    with (folder / f"{1:020d}.seg").open("wb") as file:
        file.write(struct.pack("<II", len(record), zlib.crc32(record)) + record)
        file.write(struct.pack("<II", 0xFFFFFFFF, 0))
        file.truncate(spools.MOST_BYTES)
    (folder / f"{2:020d}.seg").write_bytes(b"beyond the bound")
    assert spools.read(tmp_path / "state", 0) == Spooled(1, [record])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rubbish_never_hurts_and_never_goes_for_a_record(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool(folder, NUMBERED)
    files = sorted((folder / "state" / "spool").glob("*.seg"))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content)))
        junk = data.draw(st.binary(max_size=20))
        content[at : at + data.draw(st.integers(0, 20))] = junk
        path.write_bytes(content)
    found = everything(folder / "state")
    rest = iter(NUMBERED)
    assert all(record in rest for record in found), "some that were said, in order"
