"""Programs of others, as they are: see README.md and LICENSES.txt."""
