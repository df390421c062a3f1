"""Everything that turns a checkout into a running system: run by ``make``, with nothing but Python's standard library."""
