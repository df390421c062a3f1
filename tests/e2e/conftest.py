"""One product for a test module: server, sandboxes, scripted model, all real but the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openinspect.testing.live_server import LiveServer


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("live") / "data", OPENINSPECT_SANDBOX_DISK_MIB="256") as server:
        yield server
