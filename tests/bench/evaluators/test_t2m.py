"""Evaluators on HumanML3D's features: networks from their files against loops over numbers, and when there are none."""

import dataclasses
import shutil
from pathlib import Path

import guo_files
import numpy as np
import pytest
import torch
from clips import CARD
from humanml import write_evaluator, write_glove
from people import real_motions

from videomdm_ext.bench.evaluators import t2m
from videomdm_ext.bench.evaluators.base import Ground, UnavailableError, make_all
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.mdm.hook import manager
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, heading
from videomdm_ext.motion.skeletons import SMPL22

READ = {t2m.T2M: 259, t2m.Mardm: 67}
CHANNELS = {t2m.T2M: 263, t2m.Mardm: 67}
Weights = dict[str, np.ndarray]


def leaky(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 0.2 * values)


def convolved(steps: np.ndarray, own: Weights, name: str) -> np.ndarray:
    """[T, C] -> [T // 2, W]: 4 frames from one before to two behind, every second frame."""
    padded = np.concatenate((steps[:1] * 0, steps, steps[:1] * 0))
    kernel = own[f"{name}.weight"]
    return np.stack(
        [
            sum(kernel[:, :, k] @ padded[2 * step + k] for k in range(4)) + own[f"{name}.bias"]
            for step in range(len(steps) // 2)
        ]
    )


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def recurrent(steps: np.ndarray, own: Weights) -> np.ndarray:
    """A gated recurrent unit (Cho et al. 2014), forwards and backwards, and what follows."""
    inputs, last = steps @ own["input_emb.weight"].T + own["input_emb.bias"], []
    for way, end in enumerate(("l0", "l0_reverse")):
        state = own["hidden"][way, 0]
        for step in inputs[::-1] if way else inputs:
            new = np.split(own[f"gru.weight_ih_{end}"] @ step + own[f"gru.bias_ih_{end}"], 3)
            old = np.split(own[f"gru.weight_hh_{end}"] @ state + own[f"gru.bias_hh_{end}"], 3)
            reset, update = sigmoid(new[0] + old[0]), sigmoid(new[1] + old[1])
            state = (1 - update) * np.tanh(new[2] + reset * old[2]) + update * state
        last.append(state)
    hidden = own["output_net.0.weight"] @ np.concatenate(last) + own["output_net.0.bias"]
    normed = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    normed = leaky(normed * own["output_net.1.weight"] + own["output_net.1.bias"])
    return own["output_net.3.weight"] @ normed + own["output_net.3.bias"]


def by_hand(kind: type[t2m.T2M], features: np.ndarray) -> np.ndarray:
    own = numbers(kind)
    scales = {name: values.double().numpy() for name, values in guo_files.scales(CHANNELS[kind]).items()}
    frames = min(len(features), 196) // 4 * 4
    scored = (features[:frames, : READ[kind]] - scales["mean"][: READ[kind]]) / scales["std"][: READ[kind]]
    behind = np.zeros((min(4, 196 - frames), READ[kind]))
    movement = own["movement_encoder"]
    steps = np.concatenate((scored, behind))
    for name in ("main.0", "main.3"):
        steps = leaky(convolved(steps, movement, name))
    steps = steps @ movement["out_net.weight"].T + movement["out_net.bias"]
    return recurrent(steps[: frames // 4], own["motion_encoder"])


def numbers(kind: type[t2m.T2M]) -> dict[str, Weights]:
    found = guo_files.weights(READ[kind])
    return {module: {name: v.double().numpy() for name, v in own.items()} for module, own in found.items()}


def write(root: Path, kind: type[t2m.T2M], layout: str) -> Path:
    """-> the folder of --evaluators"""
    place, sizes = root / kind.name, (CHANNELS[kind], READ[kind])
    if layout == "hub":
        guo_files.write_hub(place, *sizes)
    elif kind is t2m.Mardm:
        guo_files.write_official(place, "checkpoints/t2m", "utils/eval_mean_std/t2m/eval_{}.npy", *sizes)
    else:
        guo_files.write_official(place, "t2m", "t2m/Comp_v6_KLD005/meta/{}.npy", *sizes)
    return root


def given(folder: Path) -> Ground:
    return Ground(clips=str(folder / "set"), card=CARD, cache=folder, weights=str(folder))


MAKE = {t2m.T2M: t2m.make, t2m.Mardm: t2m.make_mardm}


@pytest.mark.parametrize("kind", [t2m.T2M, t2m.Mardm])
def test_both_layouts_have_one_identity_and_the_numbers_of_a_computation_by_hand(tmp_path, kind):
    made = [MAKE[kind](given(write(tmp_path / layout, kind, layout))) for layout in ("official", "hub")]
    assert made[0].identity == made[1].identity
    clips = [positions[:frames] for positions, frames in zip(real_motions().values(), (40, 43, 61, 24), strict=False)]
    clips.append(clips[2].repeat(4, 1, 1))  # longer than what is read
    batched = kind(dataclasses.replace(made[0].matching, batch=2), made[0].texts)
    for evaluator in (*made, batched):
        rows = evaluator.motions(clips, 20.0).double().numpy()
        expected = np.stack([by_hand(kind, t2m.features(clip).double().numpy()) for clip in clips])
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-4)
        assert np.ptp(rows, 0).max() > 0.01
    assert str(made[0].facts["weights"]).startswith("SHA-256 ")
    tagged = dataclasses.replace(made[0].texts, known={"he walks.": ("walk/VERB",)})
    assert kind(made[0].matching, tagged).identity != made[0].identity
    other = guo_files.weights(READ[kind], seed=1)
    torch.save(other, tmp_path / "official" / kind.name / next(iter(weights_below(tmp_path / "official", kind))))
    changed = MAKE[kind](given(tmp_path / "official"))
    assert changed.identity != made[0].identity


def weights_below(folder: Path, kind: type[t2m.T2M]) -> list[Path]:
    root = folder / kind.name
    return [path.relative_to(root) for path in root.rglob("finest.tar")]


def test_a_caption_is_its_words_and_tags_in_order_and_known_topics_come_first(tmp_path):
    evaluator = t2m.make(given(write(tmp_path, t2m.T2M, "hub")))
    own = numbers(t2m.T2M)["text_encoder"]
    tags = {"sos": 14, "eos": 14, "unk": 14, "walk": 12, "slowly": 13, "zigzag": 1}
    table = guo_files.vectors().double().numpy()
    for words, read in (
        (["walk/VERB", "slowly/ADV"], ["walk", "slowly"]),
        (["zigzag/NOUN", "flies/VERB"], ["zigzag", "unk"]),
        (["walk/VERB"] * 30, ["walk"] * 20),
    ):
        steps = []
        for word in ("sos", *read, "eos"):
            tag = own["pos_emb.weight"][:, tags[word]] + own["pos_emb.bias"]
            steps.append(table[guo_files.WORDS.index(word)] + tag)
        found = evaluator.matching.captions([words])[0].double().numpy()
        np.testing.assert_allclose(found, recurrent(np.stack(steps), own), rtol=0, atol=1e-4)


def test_damaged_foreign_and_missing_files_are_named(tmp_path):
    with pytest.raises(UnavailableError, match=r"mardm-67: expected a folder mardm-67 .*found none in"):
        t2m.make_mardm(given(tmp_path))
    found, missing = make_all(manager(), given(tmp_path), without=("essential", "text-motion"))
    assert ([one.name for one in found], set(missing)) == (["views-2d"], {"t2m"})
    root = write(tmp_path, t2m.T2M, "hub") / "t2m"
    whole = (root / "stats" / "mean.npy").read_bytes()
    (root / "stats" / "mean.npy").write_bytes(whole[:-1] + b"x")
    with pytest.raises(DatasetError, match=r"mean\.npy: expected SHA-256 [0-9a-f]{64} as artifact_manifest\.json"):
        t2m.make(given(tmp_path))
    (root / "artifact_manifest.json").unlink()
    (root / "stats" / "mean.npy").write_bytes(whole)
    good = (root / "model.safetensors").read_bytes()
    (root / "model.safetensors").write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError, match=r"model\.safetensors: expected the weights of an evaluator"):
        t2m.make(given(tmp_path))
    shutil.copytree(root, tmp_path / "mardm-67")
    (tmp_path / "mardm-67" / "model.safetensors").write_bytes(good)
    with pytest.raises(DatasetError, match=r"weights for 67 channels, found other content \(weights for 259 channels"):
        t2m.make_mardm(given(tmp_path))
    (root / "model.safetensors").write_bytes(good)
    (root / "glove" / "our_vab_idx.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DatasetError, match=r"our_vab_idx\.pkl: .*it names os\.system, which is never loaded"):
        t2m.make(given(tmp_path))
    shutil.rmtree(root / "glove")
    with pytest.raises(UnavailableError, match=r"files of the evaluator t2m, found no glove"):
        t2m.make(given(tmp_path))


@pytest.fixture(scope="module")
def matching(tmp_path_factory) -> t2m.Matching:
    """-> narrow networks with random weights."""
    root = tmp_path_factory.mktemp("guo") / "t2m"
    guo_files.write_hub(root, 263, 259)
    return t2m.load(t2m.T2M, root, str(root)).matching


def test_vectors_of_humanml3d_come_back_from_their_positions():
    for name, positions in real_motions().items():
        clip = positions.double()
        own = encode(clip, SMPL22, heading(clip, SMPL22, HUMANML3D_FILES))
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


def test_parts_of_speech_come_from_the_data_and_from_a_tagger_only_for_new_captions(tmp_path, matching):
    clips = write_texts(tmp_path, "he walks.#walk/VERB#0.0#0.0", "she jumps.#jump/OTHER#0.0#0.0")
    known = t2m.read_tagged(clips)
    assert known == {"he walks.": ("walk/VERB",)}
    texts = t2m.Captions(known, lambda caption: [("run", "NOUN")])
    assert texts.words("he walks.") == ("walk/VERB",)
    assert texts.words("she jumps.") == ("run/NOUN",)
    made = t2m.T2M(matching, texts).captions(["she jumps.", "he walks.", "she jumps."])
    torch.testing.assert_close(made, matching.captions([["run/NOUN"], ["walk/VERB"], ["run/NOUN"]]))


def test_without_parts_of_speech_there_is_no_text_side_and_the_facts_say_why(matching):
    evaluator = t2m.T2M(matching, t2m.Captions({"he walks.": ("walk/VERB",)}, None))
    assert evaluator.captions(["he walks.", "she jumps."]) is None
    assert evaluator.captions(["he walks."]) is not None
    bare = t2m.T2M(matching, t2m.Captions({}, None))
    assert bare.captions(["he walks."]) is None
    assert "spaCy" in bare.texts.origin


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
