"""``python -m openinspect`` is ``openinspect``."""

from openinspect.cli import main

main()
