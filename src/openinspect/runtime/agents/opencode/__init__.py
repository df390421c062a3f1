"""OpenCode, driven over its own HTTP API: ``config`` says how it is set up, ``process`` starts it, ``client`` speaks with it,
``translate`` turns its events into ours, ``turn`` runs one turn, ``driver`` is the agent of the contract.
"""

from .driver import OpenCode

__all__ = ["OpenCode"]
