"""Means of the loss terms between two rows of progress.csv."""

import csv
import io
from pathlib import Path

from train.checkpoints import write_text


class Progress:
    """Adds up [N] terms on their device and writes one row per interval; terms may come and go."""

    def __init__(self, path):
        self.path = Path(path)
        self.rows, self.sums, self.counts = [], {}, {}

    def add(self, terms):
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().mean().double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def row(self, step):
        """Write the row of this step. -> the means by name"""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        self.rows.append({"step": step, **means})
        text = io.StringIO()
        columns = {name: None for row in self.rows for name in row}
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(text.getvalue(), self.path)
        return means

    def state(self):
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "counts": dict(self.counts)}

    def restore(self, state, step):
        """Go on after `step`: forget later rows, take up the sums of the open interval."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
