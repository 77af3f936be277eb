"""Measure what docs/scale.md tells: how fast videos become clips, how long a large set takes to open and to load.

python docs/measure_scale.py make DIR --clips 200000       # bundled motion, varied: hard links to 144 clips
python docs/measure_scale.py load DIR                      # opening, first batch, batches a second, memory
python docs/measure_scale.py watch VIDEOS --clips 10       # watching, placing, lifting and writing the first ten videos
"""

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

FRAMES, BATCH = 60, 64


def make(place: Path, clips: int) -> None:
    """A set of that many training clips, whose files are links to those of the demo's data set."""
    from videomdm_ext.data import seal
    from videomdm_ext.data.folder import facts_of, names, read_card, read_entries, read_files, update_hash
    from videomdm_ext.data.index import write
    from videomdm_ext.data.motions import build_demo

    base = place.with_name(f"{place.name}-base")
    if not (base / "dataset.json").is_file():
        build_demo(str(base))
    card = read_card(str(base))
    entries = list(read_entries(str(base), card, "train"))
    contents = {entry.id: read_files(str(base), card, entry.id) for entry in entries}
    made, content, digests = [], hashlib.sha256(), {}
    for folder in {Path(name).parent for name in names("x", card).values()}:
        (place / folder).mkdir(parents=True)
    for number in range(clips):
        entry = entries[number % len(entries)]
        made.append(entry._replace(id=f"c{number:07d}"))
        update_hash(content, card, made[-1].id, contents[entry.id])
        digests |= seal.digests(made[-1].id, card, contents[entry.id])
        for kind, name in names(entry.id, card).items():
            if kind in contents[entry.id]:
                os.link(base / name, place / names(made[-1].id, card)[kind])
    card = dataclasses.replace(card, counts={"train": clips}, content_hash=content.hexdigest())
    for folder in ("", f"teacher_vecs/{card.lifter}"):
        for name in ("Mean.npy", "Std.npy"):
            (place / folder / name).write_bytes((base / folder / name).read_bytes())
    (place / "train.txt").write_text("".join(f"{entry.id}\n" for entry in made))
    write(str(place), "train", facts_of(card), [entry.line for entry in made])
    card = dataclasses.replace(card, files=seal.digests_of(str(place), card))
    seal.write_table(str(place), card, digests)
    (place / "dataset.json").write_text(card.to_json())
    print(f"{place}: {clips} clips")


def load(place: Path, batches: int, workers: int) -> None:
    """Time of the processor and of the clock for opening the set and for batches of 64; most memory used."""
    from videomdm_ext.config import Source, Supervision
    from videomdm_ext.data.seal import verify
    from videomdm_ext.mdm.data import open_dataset

    before, found, started, worked = memory(), {}, time.perf_counter(), time.process_time()

    def note(name: str, count: int = 1) -> None:
        nonlocal started, worked
        found[f"{name}, s"] = round((time.perf_counter() - started) / count, 3)
        found[f"{name}, processor s"] = round((time.process_time() - worked) / count, 3)
        started, worked = time.perf_counter(), time.process_time()

    verify(str(place))
    note("verify")
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


def watch(place: Path, videos: int) -> None:
    """Frames a second of the processor, in each step from the first videos of a folder, with captions.tsv, to a set."""
    from videomdm_ext.data.folder import read_card
    from videomdm_ext.data.importing import run_import
    from videomdm_ext.data.sources.base import ImportOptions
    from videomdm_ext.data.video.frames import ENDINGS, open_video
    from videomdm_ext.data.video.importer import VideoImporter

    chosen = sorted(path for path in place.resolve().iterdir() if path.suffix in ENDINGS)[:videos]
    looked = [open_video(str(path)) for path in chosen]
    seconds, frames = sum(one.seconds for one in looked), sum(one.count for one in looked)
    found = {"videos": len(chosen), "seconds of video": round(seconds), "frames": frames, "MB before": memory()}
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "videos"), Path(scratch, "set")
        source.mkdir()
        for path in chosen:
            shutil.copy(path, source)

        def importer() -> VideoImporter:
            made = VideoImporter(str(source), ImportOptions(captions=str(place / "captions.tsv")))
            made.cache = str(out / "detections")
            return made

        worked = time.process_time()

        def note(name: str) -> None:
            nonlocal worked
            found[f"{name}, frames a processor s"] = round(frames / (time.process_time() - worked), 1)
            worked = time.process_time()

        importer().members()
        note("watching and placing")
        made = importer()
        members = made.members()
        note("placing what was watched")
        for _ in made.clips(members):
            pass
        note("lifting")
        run_import(made, str(out))
        note("all of it once it was watched")
        clips = sum(read_card(str(out)).counts.values())
        sizes = {"videos": chosen, "detections": [*(out / "detections").iterdir()]}
        sizes["set"] = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "detections"]
        for name, paths in sizes.items():
            found[f"MB an hour, {name}"] = round(sum(path.stat().st_size for path in paths) / 1e6 * 3600 / seconds)
    print(json.dumps(found | {"clips": clips, "MB at most": memory()}, indent=1))


def memory() -> int:
    """Most memory that this process had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "load", "watch"))
    parser.add_argument("place", type=Path)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "make":
        make(given.place, given.clips)
    elif given.what == "watch":
        watch(given.place, given.clips)
    else:
        load(given.place, given.batches, given.workers)


if __name__ == "__main__":
    sys.exit(main())
