"""Metrics of one image, and statistics over many."""
