"""`python -m builder` is `pibuild`."""

from builder.cli import main

main()
