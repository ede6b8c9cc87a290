"""`python -m diffcse`."""

from diffcse.cli import main

main()
