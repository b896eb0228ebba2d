"""`python -m stannary`: the command line."""

from stannary.cli.main import main

main()
