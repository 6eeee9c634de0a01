"""What is read from trained networks and their graphs: diagnostics, export, plots and reports."""
