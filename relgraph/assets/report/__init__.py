"""Template, styles and scripts of the page that `relgraph report` writes."""
