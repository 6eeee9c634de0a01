"""The way of the data: data sets in memory, random views of them, and batches."""

BUILT_IN = ("digits", "cifar10", "cifar100", "stl10")
