"""`python -m ensweep`: the command line where no `ensweep` command is installed, as in a job."""

from ensweep.cli.app import main

main()
