"""Measure what docs/scale.md tells: how long a large set takes to open, and to load batches from.

python docs/measure_scale.py make DIR --clips 200000       # bundled motion, varied: hard links to 144 clips
python docs/measure_scale.py load DIR                      # opening, first batch, batches a second, memory
"""

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

FRAMES, BATCH = 60, 64


def make(place: Path, clips: int) -> None:
    """A set of that many training clips, whose files are links to those of the demo's data set."""
    from videomdm_ext.data.folder import facts_of, names, read_card, read_entries, read_files, update_hash
    from videomdm_ext.data.index import write
    from videomdm_ext.data.motions import build_demo

    base = place.with_name(f"{place.name}-base")
    if not (base / "dataset.json").is_file():
        build_demo(str(base))
    card = read_card(str(base))
    entries = list(read_entries(str(base), card, "train"))
    contents = {entry.id: read_files(str(base), card, entry.id) for entry in entries}
    made, content = [], hashlib.sha256()
    for folder in {Path(name).parent for name in names("x", card).values()}:
        (place / folder).mkdir(parents=True)
    for number in range(clips):
        entry = entries[number % len(entries)]
        made.append(entry._replace(id=f"c{number:07d}"))
        update_hash(content, card, made[-1].id, contents[entry.id])
        for kind, name in names(entry.id, card).items():
            if kind in contents[entry.id]:
                os.link(base / name, place / names(made[-1].id, card)[kind])
    card = dataclasses.replace(card, counts={"train": clips}, content_hash=content.hexdigest())
    for folder in ("", f"teacher_vecs/{card.lifter}"):
        for name in ("Mean.npy", "Std.npy"):
            (place / folder / name).write_bytes((base / folder / name).read_bytes())
    (place / "train.txt").write_text("".join(f"{entry.id}\n" for entry in made))
    write(str(place), "train", facts_of(card), [entry.line for entry in made])
    (place / "dataset.json").write_text(card.to_json())
    print(f"{place}: {clips} clips")


def load(place: Path, batches: int, workers: int) -> None:
    """Time of the processor and of the clock for opening the set and for batches of 64; most memory used."""
    from videomdm_ext.config import Source, Supervision
    from videomdm_ext.mdm.data import open_dataset

    before, found, started, worked = memory(), {}, time.perf_counter(), time.process_time()

    def note(name: str, count: int = 1) -> None:
        nonlocal started, worked
        found[f"{name}, s"] = round((time.perf_counter() - started) / count, 3)
        found[f"{name}, processor s"] = round((time.process_time() - worked) / count, 3)
        started, worked = time.perf_counter(), time.process_time()

    dataset = open_dataset(
        Source(clips=str(place), crop_frames=FRAMES), Supervision(supervision="2d", teacher="lifted"), "train", 0
    )
    note("open")
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, generator=order, num_workers=workers, collate_fn=dataset.collate
    )
    rows = iter(loader)
    next(rows)
    note("first batch")
    for _ in range(batches):
        next(rows)
    note("later batches", batches)
    found |= {"clips": len(dataset), "MB before": before, "MB at most": memory()}
    print(json.dumps(found, indent=1))


def memory() -> int:
    """Most memory that this process had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "load"))
    parser.add_argument("place", type=Path)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "make":
        make(given.place, given.clips)
    else:
        load(given.place, given.batches, given.workers)


if __name__ == "__main__":
    sys.exit(main())
