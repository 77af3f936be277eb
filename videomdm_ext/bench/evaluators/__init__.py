"""Evaluators: spaces in which the motions of arms are compared."""
