"""Make a checkout ready to run: ``python3 setup/bootstrap.py [--dev] [--rebuild-web]``.

What is there afterwards: missing system packages, ``.venv`` with the pinned Python packages and this project, ``.tools`` with Node and the
sandboxes' toolbox, and the built web app. Each step is skipped when its inputs have not changed since it last succeeded, so a second run takes
well under a second. Outside of the checkout only apt's packages change. Exit code 0, or 1 with what failed, why and what to do.

This file alone is kept readable for old Pythons, so that they can say what is wrong instead of failing on the syntax.
"""

import os
import shutil
import sys

OLDEST = (3, 11)


def _use_a_new_enough_python():
    """Go on in another Python of this machine, or say what is missing."""
    if sys.version_info >= OLDEST:
        return
    for minor in range(20, OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)  # noqa: UP031
        if other:
            os.execv(other, [other] + sys.argv)  # noqa: RUF005
    sys.stderr.write(
        "set-up: Python %d.%d or newer is needed, and python3 here is %d.%d.\n"  # noqa: UP031
        "What to do: install one (Debian 12: apt install python3; Ubuntu 22.04: apt install python3.11 python3.11-venv)\n"
        "and run the command again, or name it: make PYTHON=/path/to/python3.11 ...\n"
        % (OLDEST + tuple(sys.version_info[:2]))
    )
    sys.exit(1)


if __name__ == "__main__":
    _use_a_new_enough_python()
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    from setup.steps import main

    sys.exit(main(sys.argv[1:]))
