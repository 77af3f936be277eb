"""The benchmark: its plan, trainings, scores, statistics, verdict and report."""
