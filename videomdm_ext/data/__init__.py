"""Clips, the folder format, crops and batches."""
