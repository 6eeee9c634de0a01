"""What is read from trained networks and their graphs: export and plots."""
