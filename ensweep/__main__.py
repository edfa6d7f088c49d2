"""`python -m ensweep`: the command line, where the `ensweep` command is not installed."""

from ensweep.cli.app import main

main()
