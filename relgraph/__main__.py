"""`python -m relgraph` is the command line."""

from relgraph_cli.main import main

main()
