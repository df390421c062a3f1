"""The bridge process: from the spool to the control plane, and commands back. ``link`` says how; the supervisor starts it and starts it again."""
