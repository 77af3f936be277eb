"""Faster training steps, and their measurement."""
