"""The command line of relgraph, installed as the package `relgraph_cli`."""
