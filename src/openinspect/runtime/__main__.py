"""``python -m openinspect.runtime [CONFIG]``"""

from openinspect.runtime.supervisor import main

main()
