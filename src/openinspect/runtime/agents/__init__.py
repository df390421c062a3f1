"""Agents and their drivers. ``contract`` is the seam; ``opencode`` drives the real one; ``fake`` is for tests of everything around it."""
