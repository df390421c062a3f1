"""Which addresses may be cloned, and what is kept of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openinspect.forges.errors import CloneRefused
from openinspect.forges.local.addresses import clone_address, is_address, repository_name


@pytest.mark.parametrize(
    ("written", "url", "name"),
    [
        ("https://host.example/owner/widgets.git", "https://host.example/owner/widgets.git", "widgets"),
        (" https://host.example:8443/o/w/ ", "https://host.example:8443/o/w", "w"),
        ("HTTPS://Host.Example/o/w", "https://host.example/o/w", "w"),
        ("ssh://git@host.example:2222/o/w.git", "ssh://git@host.example:2222/o/w.git", "w"),
        ("git@host.example:owner/widgets.git", "ssh://git@host.example/owner/widgets.git", "widgets"),
        ("host.example:widgets", "ssh://host.example/widgets", "widgets"),
        ("file:///srv/git/my%20work.git", "file:///srv/git/my%20work.git", "my-work"),
        ("file:///home/sam/work/.git", "file:///home/sam/work/.git", "work"),
        ("https://[2001:db8::1]/o/w", "https://[2001:db8::1]/o/w", "w"),
    ],
)
def test_what_is_allowed(written: str, url: str, name: str) -> None:
    address = clone_address(written)
    assert (address.url, address.name) == (url, name)
    assert clone_address(address.url) == address


@pytest.mark.parametrize(
    "written",
    [
        "",
        "http://host.example/o/w",
        "git://host.example/o/w",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "fd::17",
        "ftp://host.example/o/w",
        "https://sam:password@host.example/o/w",
        "https://token@host.example/o/w",
        "ssh://git:password@host.example/o/w",
        "ssh://-oProxyCommand=touch@host.example/o/w",
        "ssh://-oProxyCommand=touch/o/w",
        "-oProxyCommand=touch:x",
        "--upload-pack=touch x",
        "--upload-pack=touch",
        "https://host.example",
        "https://host.example/",
        "https://host.example/o/w?token=x",
        "https://host.example/o/w#x",
        "https://host.example/o/w\nx",
        "https://host.example:port/o/w",
        "https:///o/w",
        "file://other.example/srv/x",
        "file://relative",
        "file:///srv/%00x",
        "https://host.example/" + "x" * 3000,
    ],
)
def test_what_is_refused_and_never_repeats_a_password(written: str) -> None:
    with pytest.raises(CloneRefused) as refused:
        clone_address(written)
    assert refused.value.remedy
    assert "password" not in str(refused.value) and "token@" not in str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.from_regex(r"(https|ssh|file|ext)://[^ ]{0,40}", fullmatch=True)))
def test_nothing_but_a_refusal_or_a_safe_address_comes_out(text: str) -> None:
    is_address(text)
    try:
        address = clone_address(text)
    except CloneRefused:
        return
    assert address.url.startswith((f"{address.scheme}://", "file:///"))
    assert "\n" not in address.url and "\0" not in address.url
    assert repository_name(address.name) == address.name
    assert clone_address(address.url) == address


def test_folders_and_addresses_are_told_apart() -> None:
    assert is_address("https://x/y") and is_address("git@host:x/y")
    assert not is_address("/home/sam/x:y") and not is_address("./x") and not is_address("x")
