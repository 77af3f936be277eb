"""The official evaluator without MDM: what reaches its networks, in which order, and why it may not be had."""

from pathlib import Path

import pytest
import torch
from clips import CARD
from humanml import write_evaluator, write_glove
from people import real_motions

from videomdm_ext.bench.evaluators import guo, t2m
from videomdm_ext.bench.evaluators.base import Ground, UnavailableError
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, heading
from videomdm_ext.motion.skeletons import SMPL22

MEAN = torch.linspace(-1, 1, 263)[:259]
STD = torch.linspace(0.5, 2, 263)[:259]
WORDS = {word: number for number, word in enumerate(("sos", "eos", "unk", "walk", "jump", "run"))}


class Recurrent:
    """Sums the steps that belong to a row, weighted by their place; refuses rows that are not longest first."""

    def __call__(self, steps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        assert (lengths.diff() <= 0).all()
        return torch.stack([(row[:n] * torch.arange(1.0, n + 1)[:, None]).sum(0) for row, n in zip(steps, lengths)])  # noqa: B905


def movement(motions: torch.Tensor) -> torch.Tensor:
    """The mean of each 4 frames, so that a step sees its own frames alone."""
    return motions.unflatten(1, (-1, 4)).mean(2)


def text(vectors: torch.Tensor, tags: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return Recurrent()(torch.cat((vectors, tags), -1), lengths)


class Vectors:
    """A word's number as its vector, a tag's length as its part of speech."""

    def __getitem__(self, item: str) -> tuple[torch.Tensor, torch.Tensor]:
        word, tag = item.split("/")
        return torch.tensor([float(WORDS[word])]), torch.tensor([float(len(tag))])


def fake(batch: int = 3) -> guo.Matching:
    return guo.Matching(movement, Recurrent(), text, Vectors(), MEAN, STD, batch=batch)


def by_hand(features: torch.Tensor) -> torch.Tensor:
    """What the fake networks should make of a motion: loops, no batches, no padding."""
    steps = min(len(features), 196) // 4
    total = torch.zeros(259)
    for step in range(steps):
        frames = [(features[4 * step + k, :259] - MEAN) / STD for k in range(4)]
        total += (step + 1) * sum(frames) / 4
    return total


LENGTHS = (40, 199, 7, 43, 196, 4, 120, 40, 260, 41)


def test_each_motion_gets_its_own_row_whatever_the_lengths_beside_it(generator):
    motions = [torch.randn(frames, 263, generator=generator) for frames in LENGTHS]
    expected = torch.stack([by_hand(features) for features in motions])
    for batch in (1, 3, 64):
        torch.testing.assert_close(fake(batch).motions(motions), expected, rtol=1e-4, atol=1e-3)


def test_frames_beyond_a_multiple_of_four_and_contacts_are_not_read(generator):
    motion = torch.randn(43, 263, generator=generator)
    other = motion.clone()
    other[40:] += 5.0
    other[:, -4:] += 5.0
    first, second = fake().motions([motion, other])
    torch.testing.assert_close(first, second)
    other[39, 0] += 5.0
    assert not torch.allclose(fake().motions([other])[0], first)


def test_captions_have_a_start_and_an_end_and_at_most_twenty_words():
    short, long = ["walk/VERB", "jump/X"], ["run/VERB"] * 30
    made = fake(1).captions([short, long])
    framed = [[(0, 5), (3, 4), (4, 1), (1, 5)], [(0, 5), *[(5, 4)] * 20, (1, 5)]]
    expected = [[sum((place + 1) * pair[k] for place, pair in enumerate(words)) for k in range(2)] for words in framed]
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(fake(2).captions([short, long]), made)


def test_nothing_gives_nothing_and_a_motion_without_a_step_is_refused():
    assert fake().motions([]).shape[0] == fake().captions([]).shape[0] == 0
    with pytest.raises(DatasetError, match="4 or more frames"):
        fake().motions([torch.zeros(40, 263), torch.zeros(3, 263)])


def humanml(positions: torch.Tensor) -> torch.Tensor:
    """HumanML3D's own vectors of a clip that faces +z by its first frame."""
    return encode(positions, SMPL22, heading(positions, SMPL22, HUMANML3D_FILES))


def test_vectors_of_humanml3d_come_back_from_their_positions():
    for name, positions in real_motions().items():
        own = humanml(positions.double())
        found = t2m.features(decode(own, SMPL22).float())
        assert found.shape == own.shape, name
        error = (found - own).abs()[:-1]
        assert error[:, :67].max() < 1e-3, name
        assert error[:, 193:259].max() < 1e-3, name


def test_where_a_motion_happens_and_where_it_faces_makes_no_difference():
    positions = real_motions()["dance_a"]
    turned = rotate_yaw_together(positions, torch.full(positions.shape[:1], 1.9)) + torch.tensor((3.0, 0.0, -2.0))
    torch.testing.assert_close(t2m.features(turned)[:, :259], t2m.features(positions)[:, :259], rtol=0, atol=2e-3)
    mirrored = positions * torch.tensor((-1.0, 1.0, 1.0))
    assert (t2m.features(mirrored) - t2m.features(positions))[:, :67].abs().max() > 0.1


def write_texts(folder: Path, *lines: str) -> str:
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    (folder / "texts" / "a.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder)


def test_parts_of_speech_come_from_the_data_and_from_a_tagger_only_for_new_captions(tmp_path):
    clips = write_texts(tmp_path, "he walks.#walk/VERB#0.0#0.0", "she jumps.#jump/OTHER#0.0#0.0")
    known = t2m.read_tagged(clips)
    assert known == {"he walks.": ("walk/VERB",)}
    texts = t2m.Captions(known, lambda caption: [("run", "NOUN")])
    assert texts.words("he walks.") == ("walk/VERB",)
    assert texts.words("she jumps.") == ("run/NOUN",)
    evaluator = t2m.T2M(fake(), texts)
    made = evaluator.captions(["she jumps.", "he walks.", "she jumps."])
    torch.testing.assert_close(made, fake().captions([["run/NOUN"], ["walk/VERB"], ["run/NOUN"]]))


def test_without_parts_of_speech_there_is_no_text_side_and_the_facts_say_why():
    evaluator = t2m.T2M(fake(), t2m.Captions({"he walks.": ("walk/VERB",)}, None))
    assert evaluator.captions(["he walks.", "she jumps."]) is None
    assert evaluator.captions(["he walks."]) is not None
    bare = t2m.T2M(fake(), t2m.Captions({}, None))
    assert bare.captions(["he walks."]) is None
    assert "spaCy" in bare.texts.origin


def test_motions_of_another_rate_are_refused():
    with pytest.raises(ConfigError, match=r"20 fps, found 30"):
        t2m.T2M(fake(), t2m.Captions({}, None)).motions([real_motions()["dance_a"]], 30.0)


def ground(root: Path, card: Card = CARD, kind: str = "mdm") -> Ground:
    return Ground(clips=str(root / "set"), card=card, cache=root, checkout=Checkout(root, None, kind))


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(UnavailableError, match="--mdm"):
        t2m.make(Ground(clips="set", card=CARD, cache=tmp_path))
    with pytest.raises(UnavailableError, match="--mdm"):
        t2m.make(ground(tmp_path, kind="standin"))
    with pytest.raises(UnavailableError, match=r"finest\.tar.*download_t2m_evaluators\.sh; bash .*download_glove\.sh"):
        t2m.make(ground(tmp_path))
    write_evaluator(tmp_path)
    with pytest.raises(UnavailableError, match=r"no glove/our_vab_data\.npy") as caught:
        t2m.make(ground(tmp_path))
    assert "finest.tar" not in str(caught.value)
    write_glove(tmp_path)
    with pytest.raises(UnavailableError, match=r"dataset/t2m_mean\.npy, dataset/t2m_std\.npy"):
        t2m.make(ground(tmp_path))


@pytest.mark.parametrize(("skeleton", "fps"), [("nba16", 20.0), ("smpl22", 30.0)])
def test_other_skeletons_and_rates_have_no_such_evaluator(tmp_path, skeleton, fps):
    card = Card(name="x", skeleton=skeleton, fps=fps, lifter="x", licence="x", sources=())
    with pytest.raises(UnavailableError, match=f"found {skeleton} at {fps:g}"):
        t2m.make(ground(tmp_path, card))
