"""The code host of this machine: repositories in folders, pull requests in our own table. ``forge.LocalForge`` is its face."""
