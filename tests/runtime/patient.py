"""The runtime with its clocks shortened: ``python patient.py CONFIG``. What looks after silence does it a hundred times as often."""

from __future__ import annotations

from openinspect.runtime import supervisor
from openinspect.runtime.agents.opencode import turn

turn.LOOK_SECONDS = 0.05
turn.QUIET_LOOK_SECONDS = 0.15
turn.IDLE_SECONDS = 0.3
turn.RESEND_SECONDS = 1.0
supervisor.SWEEP_SECONDS = 0.1

if __name__ == "__main__":
    supervisor.main()
