"""`python -m flbench`."""

from flbench.cli import main

main()
