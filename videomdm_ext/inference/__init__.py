"""Sampling and lifting with a trained checkpoint."""
