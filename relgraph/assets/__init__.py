"""Files that ship with the package: the teacher of the default run."""
