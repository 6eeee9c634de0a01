"""Data sets in memory or in files, random views of them, and batches."""

AUGMENTATIONS = ("crop", "moco", "simclr", "simclr-small", "digits", "pixels")
