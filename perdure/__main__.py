"""`python -m perdure`, which is also what `accelerate launch -m perdure` starts."""

from perdure.cli import main

main()
