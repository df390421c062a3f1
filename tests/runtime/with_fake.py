"""The runtime with the agent that has no mind: ``python with_fake.py CONFIG``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from openinspect.protocol.config import RuntimeConfig
from openinspect.runtime.agents.contract import Agent
from openinspect.runtime.agents.fake import FakeAgent
from openinspect.runtime.door import Forwarder
from openinspect.runtime.processes import Account
from openinspect.runtime.supervisor import load, supervise


def make(config: RuntimeConfig, account: Account, _forwarder: Forwarder, _env: dict[str, str]) -> Agent:
    return FakeAgent(config.paths, account, int(os.environ.get("REFUSE_STARTS", "0")))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    raise SystemExit(asyncio.run(supervise(load(path), path, make)))
