"""A trained student outside of relgraph: files for other runtimes, classes and vectors of new images, what it costs."""
