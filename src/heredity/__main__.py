"""`python -m heredity`."""

from heredity.cli import main

main()
