"""`python -m chapterflow.cli`."""

from chapterflow.cli import main

main()
