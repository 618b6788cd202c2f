"""Data sets on disk, their ground truth, and the batches made of them."""
