"""`python -m nextword` is the command `nextword`."""

from nextword.cli import main

main()
