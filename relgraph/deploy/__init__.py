"""What a trained student becomes outside of relgraph, and what it costs to run."""
