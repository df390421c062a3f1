"""The words that both sides of the door speak. Pure data: this package imports nothing else of ours.

- ``events``: what can stand in a session's log, and which of it a sandbox may say.
- ``frames``: what travels on the bridge between a sandbox and the control plane.
- ``commands``: what the control plane asks of a sandbox.
- ``config``: what a sandbox's runtime is told when it starts.
- ``diffs``: the difference between a repository and its base.
- ``ids``: how ids and secrets look.
"""

PROTOCOL_VERSION = 1
"""Of the bridge. The server speaks this one and the one before it."""
