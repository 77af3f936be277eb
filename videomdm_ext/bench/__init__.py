"""Scores of samples, the calibration that says which of them may rank, statistics over seeds, and the report."""
