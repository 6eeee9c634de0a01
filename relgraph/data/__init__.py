"""The way of the data: data sets in memory, random views of them, and batches."""
