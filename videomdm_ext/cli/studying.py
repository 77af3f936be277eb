"""The verbs `study`, a page on which people compare motions without knowing whose they are, and `study score`."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.table import Table
from torch import Tensor

from videomdm_ext.bench import study
from videomdm_ext.bench.plan import read_plan
from videomdm_ext.bench.reference import motion
from videomdm_ext.bench.statistics import estimate_text
from videomdm_ext.bench.study import Key, Outcome, Pair
from videomdm_ext.cli.console import console, quoted, say_next
from videomdm_ext.cli.sampling import read_prompts
from videomdm_ext.cli.viewing import captioned_motions, compared_clips, motions_file, serve
from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, counted
from videomdm_ext.motion.skeletons import Skeleton, by_name
from videomdm_ext.render import figures
from videomdm_ext.render.page import study_page

TRUTH = "truth"
BYTES = 5_000_000
"""Of a page, at most: it is sent to people."""
USUAL = 20
"""Prompts without --prompts and --count."""
BLOCK = 0.25
"""Seconds of motion that stay in order in a check."""
THINKING = 5.0
"""Seconds that an answer takes behind the end of both motions, about."""
Moves = dict[int, Tensor]
"""Motions [T, J, 3] for a caption by the seed of the training."""


@dataclass(frozen=True)
class Study:
    """Write a page on which people compare motions of two arms at a time without knowing whose they are."""

    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The folder of a demo or bench, or NAME=PATH for each arm: a file of motions (npz), or a folder of samples."""
    out: Path = Path("runs/study")
    """Folder of the study: study.html for the people; key.json, which stays here; votes."""
    prompts: Path | None = None
    """A file with a caption a line; without it, random captions that all arms have motions for."""
    count: int = 0
    """Prompts at most; 0: all of --prompts, or 20."""
    arms: tuple[str, ...] = ()
    """Arms of the comparison, `truth` among them if you like; without any, all that it trained."""
    pairs: tuple[str, ...] = ()
    """Pairs of arms, ARM:ARM; without any, every one."""
    per_person: int = 0
    """Pairs of motions that each person sees; 0: all."""
    checks: int = 5
    """Pairs more that check whether people look and read."""
    question: str = "Which motion is better: more natural, and more like what the text says?"
    """What people answer."""
    title: str = "Which motion is better?"
    """Title of the page."""
    seed: int = 0
    """Seed of prompts, pairs, sides and orders."""
    clips: Path | None = None
    """Data set of a comparison, where it has moved."""
    fps: float = 20.0
    """Frame rate of files of motions, which do not tell their own."""
    serve: bool = False
    """Serve the page on this computer until Ctrl-C, and keep the answers."""
    port: int = 8000
    """Port of --serve; 0: any that is free."""

    def __call__(self) -> int:
        whole = min(self.count, self.per_person, self.checks, self.seed) >= 0 and 0 <= self.port < 65536
        if not whole or not 0 < self.fps < math.inf:
            raise ConfigError(
                "study: expected --count, --per-person, --checks and --seed of 0 or more, --fps above 0 and --port "
                f"from 0 to 65535, found {self.count}, {self.per_person}, {self.checks}, {self.seed}, {self.fps:g} and "
                f"{self.port}. Correct the options."
            )
        files.check_writable(str(self.out))
        key, page = self.make()
        place = self.out / "key.json"
        if place.is_file() and read_key(self.out).study != key.study and any((self.out / "votes").glob("*.json")):
            raise ConfigError(
                f"{self.out}: expected no answers to another study, found some. Name a new folder: --out."
            )
        files.write_bytes(str(place), key.as_json().encode())
        files.write_bytes(str(self.out / "study.html"), page.encode())
        console.print(
            f"{self.out / 'study.html'}: {counted(len(key.booklets[0]), 'pair')} a person, {self.checks} of them "
            f"checks, {key.about['minutes']:g} min; {len(page) / 1e6:.1f} MB. Send it to people; they send back a "
            "file each.\n"
            f"{place}: whose the motions are. Keep it to yourself.",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        following = f"study score --study {quoted(self.out)}"
        if not self.serve:
            say_next(f"{following} FILES")
            return 0
        status = serve(page, self.port, lambda content: keep(content, key, self.out / "votes"))
        say_next(following)
        return status

    def make(self) -> tuple[Key, str]:
        """The study's key and page."""
        arms, skeleton, fps = self.read()
        compared, draw = self.compared(arms), np.random.default_rng(self.seed)
        entries: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
        for prompt in self.chosen(arms, compared, draw):
            for names in compared:
                order = tuple(draw.permutation(names).tolist())
                one, other = (arms[name][prompt] for name in order)
                seed = int(draw.choice(sorted(one.keys() & other.keys())))
                entries.append(({"prompt": prompt, "arms": order, "seed": seed}, (one[seed], other[seed])))
        entries += checks(arms.get(TRUTH) or arms[compared[0][0]], self.checks, max(1, round(BLOCK * fps)), draw)
        motions = list({id(moves): moves for _, pair in entries for moves in pair}.values())
        motions = [motions[place] for place in draw.permutation(len(motions))]
        place_of = {id(moves): place for place, moves in enumerate(motions)}
        ids = draw.choice(2**31, len(entries), replace=False)
        pairs = []
        for at in draw.permutation(len(entries)):
            known, (first, second) = entries[at]
            pairs.append(Pair(f"{ids[at]:08x}", motions=(place_of[id(first)], place_of[id(second)]), **known))
        booklets = study.deal(pairs, self.per_person, draw)
        played = [max(len(motions[at]) for at in pairs[n].motions) / fps + THINKING for n, _ in booklets[0]]
        about = {"made_of": self.what, "seed": self.seed, "question": self.question, "title": self.title}
        key = Key("", tuple(pairs), booklets, {**about, "minutes": round(sum(played) / 60, 1)})
        digest = hashlib.sha256(json.dumps([key.public(), self.question]).encode())
        for moves in motions:
            digest.update(moves.numpy().tobytes())
        key = dataclasses.replace(key, study=digest.hexdigest()[:12])
        shown = {**key.public(), "title": self.title, "question": self.question}
        page = study_page([moves.numpy() for moves in motions], skeleton, fps, shown, collects=self.serve)
        if len(page.encode()) > BYTES:
            raise ConfigError(
                f"--count: expected a page under {BYTES / 1e6:g} MB, found {len(page.encode()) / 1e6:.1f} of "
                f"{len(motions)} motions. Ask fewer prompts, or name fewer --pairs."
            )
        return key, page

    def read(self) -> tuple[dict[str, dict[str, Moves]], Skeleton, float]:
        """Motions by arm, caption and seed of the training, the truth among them where it is known."""
        arms: dict[str, dict[str, Moves]] = {}
        if len(self.what) == 1 and "=" not in self.what[0]:
            out, plan = Path(self.what[0]), read_plan(Path(self.what[0]))
            for run in plan.runs():
                if (place := run.replication(out, 0)).is_file():
                    groups, captions, _ = captioned_motions(place)
                    for caption, moves in zip(captions, groups["samples"], strict=True):
                        arms.setdefault(run.label, {}).setdefault(caption, {}).setdefault(run.seed, moves)
            card, clips = compared_clips(plan, self.clips)
            sampled = {caption for of_arm in arms.values() for caption in of_arm}
            for clip in clips:
                for caption in sampled.intersection(() if clip.truth is None else clip.texts):
                    truth = motion(clip, TRUTH, 0, plan.crop_frames)
                    arms.setdefault(TRUTH, {})[caption] = dict.fromkeys(range(plan.seeds), truth)
            return arms, by_name(card.skeleton), card.fps
        skeletons = set()
        for word in self.what:
            name, _, path = word.partition("=")
            found = motions_file(Path(path)) if name and path and name not in arms else None
            if found is None:
                raise ConfigError(
                    f"{word}: expected the folder of a demo or bench, or NAME=PATH with a name of its own and a file "
                    "of motions (npz) or a folder of samples, found none. Correct it."
                )
            groups, captions, skeleton = captioned_motions(found)
            if len(groups) != 1:
                raise ConfigError(f"{found}: expected one group of motions, found {', '.join(groups)}. Name another.")
            ((_, made),) = groups.items()
            arms[name] = {caption: {0: moves} for caption, moves in reversed([*zip(captions, made, strict=True)])}
            skeletons.add(skeleton)
        if len(skeletons) != 1:
            raise ConfigError(f"{' '.join(self.what)}: expected one skeleton, found {len(skeletons)}. Name others.")
        return arms, skeletons.pop(), self.fps

    def compared(self, arms: Mapping[str, object]) -> list[tuple[str, ...]]:
        """Pairs of arms."""
        words = [word for part in self.arms for word in part.split(",") if word]
        wanted = words or [name for name in arms if name != TRUTH or "=" in self.what[0]]
        pairs = [tuple(word.split(":")) for part in self.pairs for word in part.split(",")] or [
            *combinations(wanted, 2)
        ]
        bad = [pair for pair in pairs if len({*pair}) != 2 or not {*pair} <= arms.keys()]
        if bad or not pairs or not study.connected(pairs):
            raise ConfigError(
                f"--arms, --pairs: expected two or more of {', '.join(arms) or 'the arms that were sampled'}, in pairs "
                f"ARM:ARM that connect them all, found {' '.join(map(':'.join, bad or pairs)) or 'none'}. Correct them."
            )
        return pairs

    def chosen(
        self, arms: Mapping[str, Mapping[str, Moves]], pairs: Sequence[tuple[str, ...]], draw: np.random.Generator
    ) -> list[str]:
        """Prompts for which every pair of arms has motions of one seed."""

        def known(text: str) -> bool:
            return all(arms[a].get(text, {}).keys() & arms[b].get(text, {}).keys() for a, b in pairs)

        if self.prompts is None:
            common = sorted(filter(known, arms[pairs[0][0]]))
            found = [common[at] for at in draw.permutation(len(common))[: self.count or USUAL]]
        else:
            found = list(dict.fromkeys(text for text, _ in read_prompts(self.prompts, None)))[: self.count or None]
        lacking = [text for text in found if not known(text)]
        if lacking or not found:
            what = f"none for {len(lacking)}, first {lacking[0]!r}" if lacking else "no caption that they share"
            raise ConfigError(
                f"{self.prompts or '--count'}: expected captions that all arms have motions for, found {what}. Sample "
                "all arms for the same file: videomdm sample --prompts FILE."
            )
        return found


def checks(
    moves: Mapping[str, Moves], count: int, block: int, draw: np.random.Generator
) -> list[tuple[dict[str, Any], tuple[Tensor, Tensor]]]:
    """Pairs whose answer is known, of those motions that move most: in turn a motion beside its own pieces of `block`
    frames in random order, and a motion beside itself with a prompt that says what to answer."""
    made: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
    sources = [(caption, next(iter(of_seed.values()))) for caption, of_seed in moves.items()]
    sources.sort(key=lambda source: -float(source[1].diff(dim=0).norm(dim=-1).mean().nan_to_num()))
    for number in range(count):
        caption, whole = sources[number // 2 % len(sources)]
        answer = int(draw.integers(2))
        if number % 2:
            asked = f"This one checks that people read. Please answer: {'AB'[answer]} is better."
            made.append(({"prompt": asked, "answer": answer, "fixed": True}, (whole, whole)))
            continue
        pieces = whole.split(block)
        order = draw.permutation(len(pieces)).tolist()
        order = order[::-1] if order == sorted(order) else order
        broken = torch.cat([pieces[at] for at in order])
        made.append(({"prompt": caption, "answer": answer}, (broken, whole) if answer else (whole, broken)))
    return made


def keep(content: bytes, key: Key, folder: Path) -> None:
    """Keep answers that a page sent, in a file of its person."""
    stored = files.parse_json(files.text_from(content, "answers"), "answers", "object")
    person = study.read_ballot(stored, key, "answers").person
    files.write_bytes(str(folder / f"{person}.json"), json.dumps(stored, indent=1).encode())


def read_key(folder: Path) -> Key:
    """The key of a study's folder."""
    return Key.of_json(files.read_json(folder / "key.json", "object"), str(folder / "key.json"))


@dataclass(frozen=True)
class Score:
    """Score the answers to a study: Bradley-Terry scores, intervals, agreement, and one sentence."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Files that people sent back, or folders of them; without any, those that --serve kept."""
    study: Path = Path("runs/study")
    """Folder of the study, with key.json."""
    allow: int = 1
    """Checks that a person may fail and still count."""
    json: bool = False
    """Print everything as JSON."""

    def __call__(self) -> int:
        figures.require("scipy", "bench")
        if self.allow < 0:
            raise ConfigError(f"--allow: expected 0 or more, found {self.allow}. Correct it.")
        key = read_key(self.study)
        places = [
            place
            for named in self.files or [self.study / "votes"]
            for place in (sorted(named.glob("*.json")) if named.is_dir() or not self.files else [named])
        ]
        ballots: dict[str, study.Ballot] = {}
        for place in places:
            ballot = study.read_ballot(files.read_json(place, "object"), key, str(place))
            if ballot.person not in ballots or len(ballots[ballot.person].answers) < len(ballot.answers):
                ballots[ballot.person] = ballot  # of two files of one person, the one with more answers
        outcome = study.score(list(ballots.values()), key, allowed=self.allow)
        if self.json:
            print(json.dumps({**dataclasses.asdict(outcome), "verdict": outcome.verdict()}, indent=2))
            return 0
        show(outcome, len(places), len(ballots))
        return 0


def show(outcome: Outcome, files: int, people: int) -> None:
    """Print tables, who was left out, and the sentence."""
    scores = Table(title="Bradley-Terry scores, log-odds about their mean, 95 %", title_justify="left")
    for title in ("arm", "score"):
        scores.add_column(title)
    for arm, one in outcome.scores.items():
        scores.add_row(arm, estimate_text(one, sign="+"))
    pairs = Table(title="Votes, and the share that the model expects for the first, 95 %", title_justify="left")
    for title in ("pair", "first", "tie", "second", "share"):
        pairs.add_column(title)
    for two in outcome.preferences:
        votes = map(str, (two.wins, two.ties, two.losses))
        pairs.add_row(f"{two.first} : {two.second}", *votes, two.share_text(two.log_odds))
    console.print(scores, pairs, sep="\n")
    for person, why in outcome.excluded:
        console.print(f"left out: {person}, {why}")
    alpha = "not defined" if outcome.alpha is None else f"{outcome.alpha:.2f}"
    side = "none decided" if outcome.side is None else f"{100 * outcome.side:.0f} % of decided votes are A"
    console.print(
        f"{counted(files, 'file')} of {people} people, {len(outcome.excluded)} left out. Agreement of people "
        f"(Krippendorff's alpha): {alpha}. Sides: {side}.",
        soft_wrap=True,
    )  # fmt: skip
    console.print(outcome.verdict(), markup=False, style="bold", soft_wrap=True)
