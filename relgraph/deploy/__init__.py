"""A trained student outside of relgraph: files for other runtimes, each compared with the student."""
