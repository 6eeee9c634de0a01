"""Data sets in memory or in files, random views of them, and batches."""

AUGMENTATIONS = ("crop", "moco", "simclr", "simclr-small", "digits", "pixels")
BUILT_IN = ("digits", "nuclei", "cifar10", "cifar100", "stl10", "stl10+unlabelled", "tiny-imagenet", "voc", "pets")
