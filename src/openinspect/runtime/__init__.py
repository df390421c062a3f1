"""What runs inside a sandbox: ``python -m openinspect.runtime``. Imports ``openinspect.protocol`` and libraries, nothing else of ours.

Processes
    - the *supervisor* (``supervisor``): boots the workspace, drives the agent, writes what happens into the spool;
    - the *bridge* (``python -m openinspect.runtime.bridge``): reads the spool and speaks with the control plane. It may be killed at any
      moment: the supervisor starts another one, the turn goes on, and nothing is lost or doubled;
    - the *agent* (``agents``): under its own user id, with whatever it starts.
"""

from openinspect import __version__ as RUNTIME_VERSION

__all__ = ["RUNTIME_VERSION"]
