"""`python -m perdure`, which is also what `accelerate launch -m perdure` starts."""

import os

from perdure.cli import main

if "LOCAL_RANK" in os.environ:  # one of several processes: the first does what it is told, the others help it
    from perdure.run import helpers

    helpers.join()
main()
