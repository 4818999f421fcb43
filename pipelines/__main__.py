"""`python -m pipelines` is `pairmill`."""

from pipelines.cli import main

main()
