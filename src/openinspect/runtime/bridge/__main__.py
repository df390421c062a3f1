"""``python -m openinspect.runtime.bridge CONFIG``: runs until the supervisor goes, or the control plane refuses us."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from openinspect.protocol.config import RuntimeConfig
from openinspect.runtime.bridge.link import Link
from openinspect.runtime.channel import Channel


async def main(config: RuntimeConfig) -> None:
    reader, writer = await asyncio.open_unix_connection(str(Path(config.paths.state) / "bridge.sock"))
    link = Link(config, Channel(reader, writer))
    running = asyncio.create_task(link.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    asyncio.run(main(RuntimeConfig.model_validate_json(Path(sys.argv[1]).read_bytes())))
