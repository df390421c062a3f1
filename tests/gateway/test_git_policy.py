"""What a session may push, decided on git's own bytes."""

from __future__ import annotations

import pytest
from dulwich.protocol import pkt_line
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openinspect.gateway.git_pkt import BrokenAnswer, RefFilter, ReportReader
from openinspect.gateway.git_policy import (
    MAX_COMMANDS,
    MalformedPush,
    PushParser,
    PushRequest,
    judge,
    refusal_answer,
)

OLD, NEW, NONE = "1" * 40, "2" * 40, "0" * 40
BRANCH = "openinspect/ab12cd34"


def push(
    *commands: tuple[str, str, str], capabilities: str = "report-status side-band-64k", tail: bytes = b""
) -> bytes:
    lines = [f"{old} {new} {ref}" for old, new, ref in commands]
    lines[0] += f"\0 {capabilities}"
    return b"".join(pkt_line(line.encode() + b"\n") for line in lines) + b"0000" + tail


def parse(body: bytes, size: int = 65536) -> tuple[PushRequest | None, bytes]:
    parser = PushParser()
    for start in range(0, len(body), size):
        if (found := parser.feed(body[start : start + size])) is not None:
            return found, parser.rest + body[start + size :]
    return None, parser.rest


@pytest.mark.parametrize("size", [1, 3, 4, 7, 65536])
def test_commands_are_read_in_pieces_of_any_size(size: int) -> None:
    request, rest = parse(
        push((OLD, NEW, "refs/heads/a"), (NONE, NEW, "refs/heads/b"), tail=b"PACK0123"), size
    )
    assert request is not None
    assert [(c.old, c.new, c.ref) for c in request.commands] == [
        (OLD, NEW, b"refs/heads/a"),
        (NONE, NEW, b"refs/heads/b"),
    ]
    assert request.capabilities == (b"report-status", b"side-band-64k")
    assert rest == b"PACK0123"


def test_the_request_that_git_gets_says_the_same() -> None:
    body = push(
        (OLD, NEW, "refs/heads/a"),
        (OLD, NONE, "refs/heads/b"),
        capabilities="report-status-v2 side-band-64k object-format=sha1 agent=git/2.39 session-id=x odd",
    )
    request, _ = parse(body)
    assert request is not None
    again, _ = parse(request.encode())
    assert again == request
    assert b"session-id" not in request.encode() and b"odd" not in request.encode()


def test_the_probe_before_a_large_push_has_no_commands() -> None:
    assert parse(b"0000") == (PushRequest(()), b"")


def test_shallow_lines_come_before_the_commands() -> None:
    request, _ = parse(pkt_line(b"shallow " + OLD.encode()) + push((OLD, NEW, "refs/heads/a")))
    assert request is not None
    assert request.shallow == (OLD.encode(),)
    with pytest.raises(MalformedPush):
        parse(push((OLD, NEW, "refs/heads/a"))[:-4] + pkt_line(b"shallow " + OLD.encode()) + b"0000")


@pytest.mark.parametrize(
    "body",
    [
        b"zzzz",
        b"-001",
        b"0001",
        b"0003",
        pkt_line(b"hello") + b"0000",
        push(("x" * 40, NEW, "refs/heads/a")),
        push((OLD, NEW[:39], "refs/heads/a")),
        push((OLD, "2" * 64, "refs/heads/a")),
        push((OLD, NEW, "HEAD")),
        push((OLD, NEW, "refs/heads/a..b")),
        push((OLD, NEW, "refs/heads/../../x")),
        push((OLD, NEW, "refs/heads/a\nb")),
        push((OLD, NEW, "refs/heads/" + "a" * 2000)),
        push((OLD, NEW, "refs/heads/a"), (OLD, NEW, "refs/heads/a")),
        push((OLD, NEW, "refs/heads/a"), capabilities="report-status push-options"),
        push(*((OLD, NEW, f"refs/heads/{n}") for n in range(MAX_COMMANDS + 1))),
        pkt_line(b"push-cert\0 report-status\n") + b"0000",
        pkt_line(b"shallow " + OLD.encode()) * 1200 + b"0000",
        pkt_line(b"x" * 65_000) * 2,
    ],
)
def test_what_is_no_push_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPush):
        parse(body)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6))
@example([b"0000"])
@example([b"004"])
def test_no_bytes_at_all_break_the_parser(pieces: list[bytes]) -> None:
    parser = PushParser()
    try:
        for piece in pieces:
            if parser.feed(piece) is not None:
                break
    except MalformedPush as error:
        assert str(error)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=120),
            st.from_regex(rb"[0-9a-f]{40} [0-9a-f]{40} refs/[a-z]{1,9}/[^\n]{0,30}", fullmatch=True),
        ),
        max_size=5,
    ),
    st.integers(1, 80),
)
def test_whatever_is_taken_can_be_written_again(lines: list[bytes], size: int) -> None:
    body = b"".join(pkt_line(line) for line in lines) + b"0000"
    try:
        request, rest = parse(body, size)
    except MalformedPush:
        return
    assert request is not None and rest == b""
    assert parse(request.encode())[0] == request
    judge(request, BRANCH)


@pytest.mark.parametrize(
    "ref", [f"refs/heads/{BRANCH}", f"refs/heads/{BRANCH}-2", f"refs/heads/{BRANCH}-fix/x"]
)
@pytest.mark.parametrize(("old", "new"), [(NONE, NEW), (OLD, NEW), (OLD, NONE)])
def test_the_sessions_branches_are_free(ref: str, old: str, new: str) -> None:
    request, _ = parse(push((old, new, ref)))
    assert request is not None
    assert judge(request, BRANCH) == []


@pytest.mark.parametrize(
    ("ref", "new", "rule"),
    [
        ("refs/heads/main", NEW, "own-branch-only"),
        ("refs/heads/main", NONE, "delete-own-only"),
        (f"refs/heads/{BRANCH}5", NEW, "own-branch-only"),
        (f"refs/heads/{BRANCH}/x", NEW, "own-branch-only"),
        (f"refs/heads/x/{BRANCH}", NEW, "own-branch-only"),
        ("refs/heads/openinspect/other", NONE, "delete-own-only"),
        ("refs/tags/v1", NEW, "no-tags"),
        (f"refs/tags/{BRANCH}", NONE, "no-tags"),
        ("refs/openinspect/pull-requests/1/merge", NEW, "branches-only"),
        ("refs/notes/commits", NEW, "branches-only"),
        (f"refs/HEADS/{BRANCH}", NEW, "branches-only"),
    ],
)
def test_everything_else_is_refused_by_a_named_rule(ref: str, new: str, rule: str) -> None:
    request, _ = parse(push((OLD, new, ref)))
    assert request is not None
    assert [refusal.rule for refusal in judge(request, BRANCH)] == [rule]


@pytest.mark.parametrize("new", [NEW, NONE])
def test_a_name_that_no_log_can_show_is_refused(new: str) -> None:
    ref = f"refs/heads/{BRANCH}-".encode() + b"\xff"
    request, _ = parse(pkt_line(f"{OLD} {new} ".encode() + ref + b"\0 report-status") + b"0000")
    assert request is not None
    (refusal,) = judge(request, BRANCH)
    assert refusal.rule == "utf-8-names" and refusal.ref.encode()
    assert b"ng " + ref + b" a branch's name must be UTF-8 text" in refusal_answer(request, [refusal], BRANCH)


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\u061c", "\x9b", "\u200b", "\ufeff"])
@pytest.mark.parametrize("new", [NEW, NONE])
def test_a_name_that_reads_as_another_is_refused(character: str, new: str) -> None:
    request, _ = parse(push((OLD, new, f"refs/heads/{BRANCH}-{character}x")))
    assert request is not None
    (refusal,) = judge(request, BRANCH)
    assert refusal.rule == "printable-names" and character not in refusal.ref
    request, _ = parse(push((OLD, new, f"refs/heads/{BRANCH}-größe-修正")))
    assert request is not None and judge(request, BRANCH) == []


def test_a_refusal_without_side_bands_is_the_bare_report() -> None:
    request, _ = parse(push((OLD, NEW, "refs/heads/main"), capabilities="report-status"))
    assert request is not None
    answer = refusal_answer(request, judge(request, BRANCH), BRANCH)
    assert answer.startswith(b"000eunpack ok\n") and answer.endswith(b"0000")
    assert b"ng refs/heads/main a session pushes only its own branches" in answer


def test_a_refusal_for_very_many_long_refs_stays_git_s_protocol() -> None:
    refs = [f"refs/heads/{n:02d}{'x' * 900}" for n in range(60)]
    request, _ = parse(push(*((OLD, NEW, ref) for ref in refs)))
    assert request is not None
    reader = ReportReader(side_band=True)
    reader.feed(refusal_answer(request, judge(request, BRANCH), BRANCH))
    assert reader.accepted == set()


def adverts(*refs: str, capabilities: str = "side-band-64k") -> bytes:
    lines = [f"{NEW} {ref}" for ref in refs]
    lines[0] += f"\0{capabilities}"
    return b"".join(pkt_line(line.encode() + b"\n") for line in lines) + b"0000"


def shown(answer: bytes, size: int = 65536) -> bytes:
    refs = RefFilter()
    return b"".join(refs.feed(answer[start : start + size]) for start in range(0, len(answer), size))


@pytest.mark.parametrize("size", [1, 5, 65536])
def test_only_branches_and_tags_are_shown(size: int) -> None:
    head = b"001e# service=git-upload-pack\n0000"
    seen = shown(head + adverts("HEAD", "refs/heads/main", "refs/pull/1/head", "refs/tags/v1"), size)
    assert seen.startswith(head)
    assert b"refs/heads/main" in seen and b"refs/tags/v1" in seen and b"HEAD\0side-band-64k" in seen
    assert b"refs/pull" not in seen and seen.endswith(b"0000")


def test_capabilities_survive_when_their_ref_is_hidden() -> None:
    seen = shown(adverts("refs/changes/1", "refs/heads/main"))
    assert b"refs/heads/main\0side-band-64k" in seen and b"refs/changes" not in seen
    none = shown(adverts("refs/changes/1"))
    assert b"0" * 40 + b" capabilities^{}\0side-band-64k" in none


def test_version_2_capabilities_pass_and_its_refs_are_filtered() -> None:
    offer = (
        b"".join(pkt_line(x) for x in (b"version 2\n", b"ls-refs=unborn\n", b"fetch=shallow filter\n"))
        + b"0000"
    )
    assert shown(offer) == offer
    answer = adverts("refs/heads/main symref-target:x", "refs/pull/2/head").replace(b"\0side-band-64k", b"")
    assert b"refs/heads/main symref" in shown(answer) and b"pull" not in shown(answer)


def test_the_report_says_which_refs_are_accepted() -> None:
    report = (
        b"".join(pkt_line(x) for x in (b"unpack ok\n", b"ok refs/heads/a\n", b"ng refs/heads/b no\n"))
        + b"0000"
    )
    banded = (
        pkt_line(b"\x02working\n")
        + pkt_line(b"\x01" + report[:20])
        + pkt_line(b"\x01" + report[20:])
        + b"0000"
    )
    for side_band, answer in ((False, report), (True, banded)):
        for size in (1, 6, 65536):
            reader = ReportReader(side_band)
            for start in range(0, len(answer), size):
                reader.feed(answer[start : start + size])
            assert reader.accepted == {b"refs/heads/a"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_a_code_host_s_rubbish_is_only_ever_a_broken_answer(answer: bytes, side_band: bool) -> None:
    for reader in (RefFilter(), ReportReader(side_band)):
        try:
            reader.feed(answer)
        except BrokenAnswer as error:
            assert str(error)
