"""A blind study of what people prefer: which pairs each of them sees, what a file of answers holds, and what all say.

STUDY/study.html    the page, for the people: motions and pairs by opaque names
STUDY/key.json      what the names stand for; it stays with whoever asks
STUDY/votes/        files of answers, one a person
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.bench.statistics import LEVEL, Estimate, holm, t_quantile
from videomdm_ext.errors import ConfigError

FORMAT, VERSION = "videomdm study", 1
BOOKLETS = 40
"""Orders of pairs, of which each person gets one."""
CHOICES = {"a": 0.0, "tie": 0.5, "b": 1.0}
"""What a person may answer, as a share of the motion shown as B."""
DRAWS = 2000
Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]
Booklets = tuple[tuple[tuple[int, bool], ...], ...]
"""In the order in which they are shown: pairs by their place, and whether their sides are exchanged."""


# -- the design --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two motions, by their place in the page, for one prompt.

    `arms` names whose they are, in the same order. A check has none: there the `answer` is 0 or 1, the motion that
    whoever looks and reads must choose. The sides of a `fixed` pair, whose prompt names one, are not exchanged.
    """

    id: str
    prompt: str
    motions: tuple[int, int]
    arms: tuple[str, ...] = ()
    answer: int | None = None
    fixed: bool = False
    seed: int | None = None
    """Of the training that sampled them."""


@dataclass(frozen=True)
class Key:
    """What a study's names stand for, and `about`, what it was made from."""

    study: str
    pairs: tuple[Pair, ...]
    booklets: Booklets
    about: Mapping[str, Any]

    def public(self) -> dict[str, Any]:
        """What the page may know."""
        pairs = [{"id": pair.id, "prompt": pair.prompt, "motions": pair.motions} for pair in self.pairs]
        return {"format": FORMAT, "version": VERSION, "study": self.study, "pairs": pairs, "booklets": self.booklets}

    def as_json(self) -> str:
        return json.dumps({"format": f"{FORMAT} key", "version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def of_json(cls, stored: Any, place: str) -> "Key":
        """What `as_json` wrote. ConfigError for anything else."""
        try:
            if (stored["format"], stored["version"]) != (f"{FORMAT} key", VERSION):
                raise ValueError(f"format {stored['format']!r}, version {stored['version']!r}")
            pairs = tuple(Pair(**{**one, "arms": tuple(one["arms"])}) for one in stored["pairs"])
            booklets = tuple(tuple((int(p), bool(e)) for p, e in booklet) for booklet in stored["booklets"])
            return cls(str(stored["study"]), pairs, booklets, stored["about"])
        except (ValueError, TypeError, LookupError) as error:
            raise ConfigError(
                f"{place}: expected the key of a study, version {VERSION}, found something else ({error}). Name the "
                "folder that videomdm study wrote."
            ) from error


def deal(pairs: Sequence[Pair], per_person: int, generator: np.random.Generator, count: int = BOOKLETS) -> Booklets:
    """Booklets: `per_person` of the pairs (0: all) in random order, and every check, spread evenly.

    Every pair comes in as many booklets as any other, give or take two. In a booklet an arm is as often A as B among
    its pairs with another arm, give or take one; the next booklet holds the same pairs with their sides exchanged.
    """
    asked = [number for number, pair in enumerate(pairs) if pair.arms]
    checks = [number for number, pair in enumerate(pairs) if not pair.arms]
    dealt, booklets = Counter[int](), []
    for _ in range(-(-count // 2)):
        rare = sorted(generator.permutation(asked).tolist(), key=lambda number: dealt[number])
        chosen = rare[: per_person or None]
        dealt.update(chosen)
        met, start = Counter[tuple[str, ...]](), int(generator.integers(2))
        exchanged = {number: bool(generator.integers(2)) for number in checks}
        for number in generator.permutation(chosen).tolist():
            arms = tuple(sorted(pairs[number].arms))
            exchanged[number] = bool((met[arms] + start) % 2) != (pairs[number].arms == arms)
            met[arms] += 1
        for mirrored in (False, True):
            order = generator.permutation(chosen).tolist()
            for place, number in enumerate(generator.permutation(checks).tolist()):
                low, high = (round(step * len(chosen) / len(checks)) for step in (place, place + 1))
                order.insert(place + int(generator.integers(low, max(high, low + 1))), number)
            booklets.append(tuple((n, not pairs[n].fixed and exchanged[n] != mirrored) for n in order))
    return tuple(booklets[:count])


# -- files of answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ballot:
    """One person's answers: place of the pair in the key, share of its second motion (0, a half for a tie, or 1), and
    whether that was shown as A."""

    person: str
    answers: tuple[tuple[int, float, bool], ...]

    def checks(self, key: Key) -> tuple[int, int]:
        """How many checks were answered, and how many of them wrongly."""
        wrong = [key.pairs[n].answer != share for n, share, _ in self.answers if not key.pairs[n].arms]
        return len(wrong), sum(wrong)


def connected(pairs: Iterable[tuple[str, ...]]) -> bool:
    """Whether pairs connect all arms that they name, so that any two can be compared."""
    groups: list[set[str]] = []
    for pair in pairs:
        touched = [group for group in groups if group & {*pair}]
        groups = [group for group in groups if group not in touched] + [{*pair}.union(*touched)]
    return len(groups) == 1


def read_ballot(stored: Any, key: Key, place: str) -> Ballot:
    """The answers in a file's JSON. ConfigError for what the study's page cannot have written."""

    def check(good: object, name: str, expected: object, found: object) -> None:
        if not good:
            raise ConfigError(
                f"{place}: {name}: expected {expected}, found {str(found)[:60]!r}. Leave it out, or ask for it anew."
            )

    check(isinstance(stored, dict), "content", "answers to a study", stored)
    for name, fitting in (("format", FORMAT), ("version", VERSION), ("study", key.study)):
        check(stored.get(name) == fitting, name, repr(fitting), stored.get(name))
    person, booklet, votes = (stored.get(name) for name in ("person", "booklet", "votes"))
    check(isinstance(person, str) and re.fullmatch("[0-9a-f]{16}", person), "person", "16 hexadecimal digits", person)
    check(type(booklet) is int and 0 <= booklet < len(key.booklets), "booklet", f"below {len(key.booklets)}", booklet)
    order = key.booklets[booklet]
    check(isinstance(votes, list) and len(votes) <= len(order), "votes", f"a list of at most {len(order)}", votes)
    answers = []
    for (number, exchanged), vote in zip(order, votes, strict=False):
        said = vote if isinstance(vote, dict) else {}
        pair, turned, choice = (said.get(name) for name in ("pair", "exchanged", "choice"))
        fits = pair == key.pairs[number].id and turned is exchanged and choice in [*CHOICES]
        check(fits, "votes", f"pair {key.pairs[number].id}, exchanged {exchanged}, and a, b or tie", vote)
        share = CHOICES[str(choice)]
        answers.append((number, 1 - share if exchanged else share, exchanged))
    return Ballot(person, tuple(answers))


# -- what the answers say ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preference:
    """How often `first` is preferred to `second`: votes, the log-odds of the model with their interval, and with the
    interval at the level that Holm's adjustment over all pairs of arms leaves it."""

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    log_odds: Estimate
    settled: Estimate

    def share_text(self, estimate: Estimate) -> str:
        """The share of votes that the model expects for `first`, a tie a half, and its interval, in per cent."""
        ends = (estimate.mean, estimate.low, estimate.high)
        share, low, high = (None if end is None else 100 / (1 + math.exp(-end)) for end in ends)
        return f"{share:.0f} %" + (" (no interval)" if low is None else f" [{low:.0f}, {high:.0f}]")


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    `scores` are Bradley-Terry log-odds with mean 0; `alpha` is the agreement between people, None where it is not
    defined; `side` is the share of A among votes that are no ties; `excluded` are people, each with the reason.
    """

    people: int
    prompts: int
    excluded: tuple[tuple[str, str], ...]
    scores: Mapping[str, Estimate]
    preferences: tuple[Preference, ...]
    alpha: float | None
    side: float | None

    def verdict(self) -> str:
        """One sentence: what was preferred, by intervals that hold together, and for whom."""
        clear = [one for one in self.preferences if (one.settled.low or 0) > 0]
        said = [f"{one.first} was preferred to {one.second}, {one.share_text(one.settled)} of votes" for one in clear]
        open_ = [one for one in self.preferences if one not in clear]
        text = ", ".join(f"{one.first} and {one.second}, {one.share_text(one.settled)}" for one in open_)
        said += [f"{'no' if clear else 'No'} preference can be claimed between {text}"] if open_ else []
        scope = f"people: {self.people}, prompts: {self.prompts}; a tie counts half"
        return f"{'; '.join(said)} ({scope}). It holds for people, prompts and motions like these."


def score(ballots: Sequence[Ballot], key: Key, *, allowed: int = 1) -> Outcome:
    """Count the answers of people who failed no more than `allowed` checks. ConfigError where votes tell nothing."""
    excluded, rows, kept = [], [], 0
    checked = any(not pair.arms for pair in key.pairs)
    for ballot in ballots:
        seen, failed = ballot.checks(key)
        if failed > allowed or (checked and not seen):
            excluded.append((ballot.person, f"{failed} of {seen} checks failed" if seen else "no check answered"))
            continue
        rows += [(kept, number, share, turned) for number, share, turned in ballot.answers if key.pairs[number].arms]
        kept += 1
    arms = sorted({arm for _, number, _, _ in rows for arm in key.pairs[number].arms})
    person, pair = (np.array([row[at] for row in rows], np.int64) for at in (0, 1))
    share = np.array([row[2] for row in rows])
    first, second = (np.array([arms.index(key.pairs[n].arms[side]) for n in pair], np.int64) for side in (0, 1))
    if not rows or not connected([key.pairs[n].arms for n in pair]):
        raise ConfigError(
            f"answers: expected votes that connect all arms, of people who failed at most {allowed} checks, found "
            f"{len(rows)} votes, {len(excluded)} of {len(ballots)} people left out. Ask more people."
        )
    prompts, prompt = np.unique([key.pairs[n].prompt for n in pair], return_inverse=True)
    found, contrast = bradley_terry(person, prompt, first, second, share, len(arms))
    ranked = []
    for one, other in combinations(np.argsort(-found, kind="stable").tolist(), 2):
        of_one = [*share[(first == other) & (second == one)], *(1 - share[(first == one) & (second == other)])]
        wins, ties, losses = (int(np.equal(of_one, value).sum()) for value in (1, 0.5, 0))
        ranked.append(
            (arms[one], arms[other], wins, ties, losses, contrast(np.eye(len(arms))[one] - np.eye(len(arms))[other]))
        )
    levels = holm([1.0 if row[-1].p is None else row[-1].p for row in ranked])
    table = np.full((kept, len(key.pairs)), np.nan)
    table[person, pair] = share - 0.5
    chose_a = [value == turned for _, _, value, turned in rows if value != 0.5]
    return Outcome(
        people=len(np.unique(person)),
        prompts=len(prompts),
        excluded=tuple(excluded),
        scores={arms[at]: contrast(np.eye(len(arms))[at] - 1 / len(arms)) for at in np.argsort(-found, kind="stable")},
        preferences=tuple(Preference(*row, row[-1].at(one.level)) for row, one in zip(ranked, levels, strict=True)),
        alpha=krippendorff_alpha(np.concatenate((table, -table), 1)),  # in both orders: no arm or side is a category
        side=sum(chose_a) / len(chose_a) if chose_a else None,
    )


def bradley_terry(
    person: Whole, prompt: Whole, first: Whole, second: Whole, share: Numbers, arms: int, *, draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Numbers, Callable[[Numbers], Estimate]]:  # fmt: skip
    """Scores [K] of Bradley and Terry (1952), log-odds with mean 0, and what estimates their sum with weights [K].

    Votes [N]: `share` is 1 where the second arm was preferred, 0 for the first, and a half for a tie, which is half a
    win to each. (Davidson's model, 1970, gives the odds among those who decide, so that a small majority beside many
    ties looks like a strong preference.) Arms that met get one more tie, Jeffreys' prior for two: scores stay finite.

    Intervals are t intervals of the bootstrap's variance. Votes of a person are alike, and votes on a prompt, so that
    each is drawn whole: V = V(people) + V(prompts) - V(both), the last over cells of one person and one prompt, whose
    noise the first two both hold, and no less than either (Cameron, Gelbach and Miller 2011), with their degrees of
    freedom, one less than the smaller number of clusters. Percentiles of people and prompts drawn at once hold that
    noise three times (Owen 2007), and are too narrow for few clusters. V is also no less than that of independent votes
    in the model, which counts where all agree and no draw differs.
    """
    votes = len(share)
    table = np.zeros((votes, arms, arms))
    table[np.arange(votes), second, first] = share
    table[np.arange(votes), first, second] = 1 - share
    wins = table.sum(0)
    tie = 0.5 * (wins + wins.T > 0)
    found, information = _maximise(wins + tie)
    generator, variances, sizes = np.random.default_rng(seed), [], []
    for cluster in (person, prompt, person * (int(prompt.max()) + 1) + prompt):
        of_vote = np.unique(cluster, return_inverse=True)[1]
        n = int(of_vote.max()) + 1
        sums = np.zeros((n, arms * arms))
        np.add.at(sums, of_vote, table.reshape(votes, -1))
        drawn = generator.multinomial(n, np.full(n, 1 / n), draws) @ sums
        scores = _maximise(drawn.reshape(draws, arms, arms) + tie)[0]
        variances.append(np.cov(scores.T) * n / max(n - 1, 1))
        sizes.append(n)
    independent = np.linalg.pinv(information) * (1 - np.mean(share == 0.5) * votes / (votes + 1))
    clusters = min(sizes)

    def contrast(weights: Numbers) -> Estimate:
        people, prompts, cells, least = (float(weights @ v @ weights) for v in (*variances, independent))
        spread = math.sqrt(max(people + prompts - cells, people, prompts, least))
        half = t_quantile(LEVEL, clusters - 1) * spread if clusters > 1 else None
        return Estimate(float(weights @ found), half, clusters)

    return found, contrast


def krippendorff_alpha(values: Numbers) -> float | None:
    """Agreement of P people on U things, values [P, U], NaN for no answer; differences count by their square.

    1 - observed / expected disagreement of two answers (Krippendorff, Content Analysis, 2013, ch. 12): 1 is full
    agreement, 0 that of chance. None where no two people answered the same, or where all answers are alike.
    """
    counts = (~np.isnan(values)).sum(0)
    values, counts = values[:, counts > 1], counts[counts > 1]
    answers = values[~np.isnan(values)]
    if not len(answers) or answers.var() == 0:
        return None
    observed = (np.nanvar(values, 0) * counts**2 / (counts - 1)).sum() / len(answers)
    return float(1 - observed / (answers.var() * len(answers) / (len(answers) - 1)))


def _maximise(wins: Numbers) -> tuple[Numbers, Numbers]:
    """Scores [..., K] with mean 0 of the greatest Bradley-Terry likelihood of wins [..., K, K] of row over column, by
    Newton's method, and their information [..., K, K]."""
    games, scores = wins + np.swapaxes(wins, -1, -2), np.zeros(wins.shape[:-1])
    for _ in range(50):
        p = 1 / (1 + np.exp(scores[..., None, :] - scores[..., None]))
        curve = games * p * (1 - p)
        information = np.eye(wins.shape[-1]) * curve.sum(-1)[..., None] - curve
        slope = (wins - games * p).sum(-1)
        step = np.linalg.solve(information + 1 / wins.shape[-1], slope[..., None])[..., 0]
        scores = scores + step
        if np.abs(step).max() < 1e-10:
            break
    return scores, information
