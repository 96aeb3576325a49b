"""`python -m haustra`."""

from haustra.cli.main import main

main()
