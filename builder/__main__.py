"""`python -m builder` is `pibuild`."""

from builder.cli.main import main

main()
