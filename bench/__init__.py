"""Measurements, each a command: ``python -m bench`` runs all and prints tables, ``python -m bench NAME …`` some.

``--write`` keeps the tables in docs/performance.md. Machines are noisy: each figure is a median over repetitions, and a baseline is measured in the
same run where two things are compared. Nothing here asserts a time.
"""
