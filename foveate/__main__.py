"""`python -m foveate` is the command line."""

from foveate.cli import main

main()
