"""The command line: help on one screen, exit statuses, and refusals before any work."""

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forks
import pytest
from clips import CARD, make_clip

from videomdm_ext import __version__, plugins, run
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.plan import Plan
from videomdm_ext.cli import benchmarking
from videomdm_ext.cli import main as cli
from videomdm_ext.cli import training as verbs
from videomdm_ext.cli.console import take
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.refined import is_made
from videomdm_ext.errors import DatasetError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.supervision import refinement

SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--diffusion_steps", "5", "--batch_size", "2",
    "--num_steps", "4", "--log_interval", "2", "--crop_frames", "20", "--text_features", "words", "--mask_frames",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """-> a folder with two training clips and one held out."""
    path = str(tmp_path / "set")
    write_folder(path, {"train": [make_clip(), make_clip(name="walk")], "test": [make_clip(name="jump")]}, CARD)
    return path


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_names_every_verb_on_one_screen(words, capsys):
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    for verb, (_, _, about) in cli.VERBS.items():
        first, _, second = verb.partition(" ")
        if first in cli.FAMILIES:
            assert any(line.startswith(f"  {first} ...") and second in line for line in lines), verb
        else:
            assert any(line.split("  ")[1:2] == [verb] and line.endswith(about) for line in lines), verb


@pytest.mark.parametrize("family", [name for name in cli.FAMILIES if name not in cli.VERBS])
@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_help_of_a_family_names_each_of_its_verbs(family, words, capsys):
    assert cli.main([family, *words]) == 0
    shown = capsys.readouterr().out
    verbs = {verb: about for verb, (_, _, about) in cli.VERBS.items() if verb.split()[0] == family}
    assert verbs
    assert all(verb in shown and about in shown for verb, about in verbs.items())


def test_the_help_names_the_version_and_every_exit_status(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"videomdm {__version__}\n"
    cli.main([])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Exit status: ")]
    assert re.findall(r"\b\d+\b", line) == ["0", "1", "2", "3", "130"] == re.findall(r"\b\d+\b", cli.__doc__)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sampel"], "'sample'"),
        (["data", "makedemo"], "'data make-demo'"),
        (["dmeo", "--fast"], "'demo'"),
        (["xyz"], "demo, data"),
    ],
)
def test_an_unknown_verb_is_answered_with_the_nearest_or_all(words, hint, capsys):
    assert cli.main(words) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: no verb {words[0]!r}. ")
    assert hint in message
    assert len(message.splitlines()) == 1


def test_a_plugins_verb_is_called_with_the_rest_and_its_status_is_returned(monkeypatch, capsys):
    class Plugin:
        @hookimpl
        def register_commands(self, register):
            register("greet", lambda words: len(words))

    manager = plugins.create_manager(builtins=())
    manager.register(Plugin(), name="greeting")
    monkeypatch.setattr(plugins, "create_manager", lambda: manager)
    assert cli.main(["greet", "a", "b"]) == 2
    assert cli.main(["greeet"]) == 1
    assert "'greet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            DatasetError("set: expected clips, found none. Make them."),
            1,
            "error: set: expected clips, found none. Make",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_an_expected_error_is_status_1_and_an_interruption_130_with_one_message(capsys, error, status, said):
    def fail() -> int:
        raise error

    assert cli.guarded(fail) == status
    message = capsys.readouterr().err
    assert message.startswith(said)
    assert message.count("\n") == 1


def test_a_fault_is_status_3_with_its_traceback_in_a_log(tmp_path, monkeypatch, capsys):
    def broken_verb() -> int:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.guarded(broken_verb) == 3
    message = capsys.readouterr().err
    (log,) = tmp_path.glob("videomdm-*.log")
    assert str(log) in message
    assert f"ZeroDivisionError: by zero ({__file__}, line " in message
    assert ': raise ZeroDivisionError("by zero")). Please report it' in message
    assert "Traceback" not in message
    assert "in broken_verb" in log.read_text("utf-8")


def test_an_option_or_value_that_does_not_exist_is_status_2_and_the_nearest_is_named(capsys):
    for words, named in ((["data", "check", "x", "--stric"], "--strict"), (["demo", "--seeds", "many"], "--seeds")):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2
        shown = capsys.readouterr()
        assert named in shown.err
        assert not shown.out


SAID = """
import os, sys
from videomdm_ext.cli import main as cli
for words in (["import", "list"], ["check", FOLDER, "--no-cache"], ["check", "--help"], ["check", FOLDER, "--stric"]):
    words = ["data", *words]
    try:
        print("status", cli.main(words), flush=True)
    except SystemExit as stop:
        print("status", stop.code, flush=True)
"""
CUT_OFF = """
for words in (["data", "check", FOLDER, "--json"], ["data", "import", "list"]):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    try:
        print("cut off", cli.main(words), file=sys.stderr)
    except SystemExit as stop:
        print("cut off", stop.code, file=sys.stderr)
os._exit(0)
"""


def at_a_terminal(script: str, *streams: int, **changes: str) -> tuple[str, str]:
    """-> what a script prints where these streams are a terminal, and what goes to a file of its errors."""
    here, there = pty.openpty()
    opened = f"""
import os, sys
for at in {streams}:
    os.dup2(os.open({os.ttyname(there)!r}, os.O_RDWR | os.O_NOCTTY), at)
for name in [name for name in sys.modules if name.startswith(("videomdm_ext.cli", "tyro"))]:
    del sys.modules[name]  # what is printed on is chosen when they are imported
"""
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(lambda: b"".join(iter(lambda: _read(here), b"")).decode())
        speaking = dict.fromkeys(("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHON_TYRO_ANSI_CODES"))
        env = {**speaking, "TERM": "xterm-256color", **changes}
        try:
            done = forks.run(["-W", "error", "-c", f"{opened}\n{script}"], env=env)
        finally:
            os.close(there)
        assert done.returncode == 0, said.result() + done.stderr
    os.close(here)
    return said.result(), done.stderr


def _read(place: int) -> bytes:
    try:
        return os.read(place, 65536)
    except OSError:  # the other end is closed
        return b""


def colours(said: str) -> set[str]:
    """The codes in terminal sequences that set a colour."""
    codes = {code for sequence in re.findall(r"\x1b\[([\d;]*)m", said) for code in sequence.split(";")}
    return {code for code in codes if re.fullmatch(r"[34][0-8]|9[0-7]|10[0-7]", code)}


def test_in_a_pipe_there_are_no_colours_no_bars_and_a_reader_may_leave(folder):
    script = (SAID + CUT_OFF).replace("FOLDER", repr(folder))
    env = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"} | {"TERM": "xterm-256color"}
    words = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("status")] == [
        "status 0", "status 0", "status 0", "status 2",
    ]  # fmt: skip
    assert "--strict" in done.stderr
    assert not re.search(r"[\x1b\r\b]", done.stdout + done.stderr)
    assert "checking" not in done.stdout
    assert done.stderr.splitlines()[-2:] == ["cut off 1", "cut off 1"]
    assert not re.search("BrokenPipe|Traceback|^fault:", done.stderr, re.MULTILINE)


def test_at_a_terminal_there_are_colours_but_not_in_errors_that_go_to_a_file_or_with_no_color(folder):
    script = SAID.replace("FOLDER", repr(folder))
    said, errors = at_a_terminal(script, 0, 1)
    assert colours(said)
    assert "--strict" in errors
    assert "\x1b" not in errors
    said, _ = at_a_terminal(script, 0, 1, 2, NO_COLOR="1")
    assert "--strict" in said
    assert not colours(said)


@pytest.fixture
def bench(folder, tmp_path: Path) -> str:
    """-> a folder of benches with one whose trainings have not begun."""
    place = tmp_path / "runs" / "small"
    place.mkdir(parents=True)
    plan = Plan(folder, read_card(folder).content_hash, ("3d", "2d"), 2, steps=100)
    (place / "plan.json").write_text(json.dumps(dataclasses.asdict(plan)), encoding="utf-8")
    return str(place)


def told(words: list[str], capsys: pytest.CaptureFixture, status: int = 0):
    """-> the JSON that a verb prints, and nothing beside it."""
    assert cli.main(words) == status
    shown = capsys.readouterr()
    assert not shown.err
    return json.loads(shown.out)


def test_bench_ls_answers_in_json_and_in_words(bench, folder, tmp_path, capsys):
    (found,) = told(["bench", "ls", str(tmp_path / "runs"), "--json"], capsys)
    assert set(found) == {"folder", "dataset", "arms", "seeds", "steps", "stage", "headline"}
    assert (found["folder"], found["dataset"], found["arms"]) == (bench, folder, ["3d", "2d"])
    assert (found["seeds"], found["steps"], found["stage"]) == (2, 100, "training, 0 % of the steps")
    assert cli.main(["bench", "ls", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: videomdm bench validate {bench}"
    (tmp_path / "empty").mkdir()
    assert told(["bench", "ls", str(tmp_path / "empty"), "--json"], capsys) == []
    assert cli.main(["bench", "ls", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'empty'}: no bench.\nNext: videomdm bench --dataset DIR\n"


@pytest.mark.parametrize(("problems", "following"), [([], "view"), (["report.md: missing"], "bench report")])
def test_bench_validate_answers_in_json_and_in_words(monkeypatch, capsys, problems, following):
    monkeypatch.setattr(benchmarking.provenance, "problems", lambda out, thorough: problems)
    status = 1 if problems else 0
    assert told(["bench", "validate", "b", "--json"], capsys, status) == {"folder": "b", "problems": problems}
    assert cli.main(["bench", "validate", "b"]) == status
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: videomdm {following} b"


def test_an_error_leaves_standard_output_to_json_alone(tmp_path, capsys):
    for words in (["data", "check", str(tmp_path / "none")], ["bench", "ls", str(tmp_path / "none")]):
        assert cli.main([*words, "--json"]) == 1
        shown = capsys.readouterr()
        assert not shown.out
        assert shown.err.startswith("error: ")


@pytest.mark.parametrize("verb", [["demo"], ["data", "make-demo"]])
def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, capsys, verb
):
    monkeypatch.setattr("videomdm_ext.data.motions.load_motions", lambda: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    assert cli.main([*verb, "--out", str(tmp_path / "file" / "out")]) == 1
    assert "can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--steps", "49"], "--steps"),
        (["--workers", "0"], "--workers"),
        (["--text-features", "bert"], "--text-features"),
        (["--arms", "3d", "4d"], "4d"),
        (["--arms", "3d", "3d"], "--arms"),
    ],
)
def test_an_option_of_the_demo_that_cannot_be_used_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, words, named
):
    monkeypatch.setattr(verbs, "_demo_data", lambda data, motions, views: read_card(str(data)))
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was begun"))
    card = dataclasses.replace(CARD, lifter_error=dict.fromkeys(("mpjpe", "root_aligned_mpjpe", "pa_mpjpe"), 0.2))
    card.lifter_error["bone_wander"] = 0.05
    write_folder(str(tmp_path / "data"), {"train": [make_clip()], "test": [make_clip(name="walk")]}, card)
    assert cli.main(["demo", "--out", str(tmp_path), *words]) == 1
    assert named in capsys.readouterr().err


TWO = ["--supervision", "2d", "--teacher", "refined", "--loss", "posterior"]


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["--arm", "2d", "--lr", "1"], ["train.train_mdm", *TWO, "--lr", "1"]),
        (["--lr", "1", "--arm=lifted"], ["train.train_mdm", "--teacher", "lifted", "--loss", "mdm", "--lr", "1"]),
        (["--seed", "3", "--mdm=x", "--arm", "2d"], ["--mdm", "x", "train.train_mdm", *TWO, "--seed", "3"]),
    ],
)
def test_train_puts_the_arm_before_the_hosts_options_so_that_these_win(monkeypatch, words, passed):
    seen: list[list[str]] = []
    monkeypatch.setattr(run, "main", lambda argv: seen.append(list(argv)) or 7)
    assert cli.main(["train", *words]) == 7
    assert seen == [passed]


def test_a_training_that_ended_well_names_the_command_that_samples_from_it(monkeypatch, capsys):
    monkeypatch.setattr(run, "main", lambda argv: 0)
    assert cli.main(["train", "--save_dir", "a run"]) == 0
    assert capsys.readouterr().out == "Next: videomdm sample --checkpoint 'a run' --text \"a person walks.\"\n"


@pytest.mark.parametrize(("words", "named"), [(["--arm"], "--arm: expected a value"), (["--arm", "4d"], "arm '4d'")])
def test_an_arm_that_is_none_is_refused(capsys, words, named):
    assert cli.main(["train", *words]) == 1
    assert named in capsys.readouterr().err
    assert take(["--arms", "2d"], "--arm") == (None, ["--arms", "2d"])


def test_refine_makes_the_refined_teachers(folder, monkeypatch, capsys):
    brief = refinement.Refinement(first=2, rounds=0)
    monkeypatch.setattr(refinement, "Refinement", lambda: brief)
    assert cli.main(["data", "refine", folder, "--shard", "2/2", "--batch", "1"]) == 0
    assert not is_made(folder, read_card(folder))
    assert "shard 2/2 is done; batches of clips of other shards that are missing: 1." in capsys.readouterr().out
    assert cli.main(["data", "refine", folder, "--shard", "1/2", "--batch", "1"]) == 0
    assert is_made(folder, read_card(folder))
    assert f"--clips {folder}" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "3/2"), "--shard: expected a part and their number, as 3/8, found '3/2'"),
        (("--processes", "-1"), "--processes: expected 0 or more, found -1"),
        (("--batch", "0"), "--batch: expected 1 or more, found 0"),
        (("--device", "abacus"), "--device abacus: expected a device of torch's, as cpu or cuda, found none here"),
    ],
)
def test_refine_refuses_options_before_any_work(folder, capsys, words, message):
    assert cli.main(["data", "refine", folder, *words]) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not Path(folder, "refined").exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["sample", "--checkpoint", "run", "--text", "walk", "--text=run"], "--text"),
        (["view", "runs/demo", "--ids", "walk", "--ids", "run"], "--ids"),
    ],
)
def test_values_in_two_places_are_refused_as_the_first_would_be_lost(capsys, words, option):
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith(f"error: {option}: expected once, found it twice.")


@pytest.mark.parametrize(
    "words", [["train", "--arm", "3d", *SMALL, "--save_dir"], ["demo", "--out"], ["bench", "--out"]]
)
@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"])
def test_one_of_several_processes_trains_nothing_and_writes_nothing(folder, tmp_path, monkeypatch, capsys, words, name):
    monkeypatch.setenv(name, "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    data = {"train": ["--clips", folder], "demo": [], "bench": ["--dataset", folder, "--text-features", "words"]}
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([*words, str(tmp_path / "run"), *data[words[0]]]) == 1
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith(f"error: {name}=2: expected one process")
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", "0"), ("num_steps", "0"), ("layers", "0"), ("latent_dim", "33"), ("num_heads", "3"),
        ("conv_kernel", "4"), ("diffusion_steps", "1"), ("diffusion_steps", "3"), ("lr", "nan"), ("lr", "-1"),
        ("dropout", "2"), ("cond_mask_prob", "5"), ("save_interval", "0"), ("seed", "-1"), ("adam_beta2", "1"),
        ("noise_schedule", "linear"), ("pos_embed_max_len", "4"), ("pos_embed_max_len", "20"),
        ("resume_checkpoint", "nothing.pt"),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_trained_with_is_refused_and_writes_nothing(folder, tmp_path, capsys, option, value):
    place = tmp_path / "run"
    words = ["--text_features", "words", f"--{option}", value, "--save_dir", str(place)]
    assert cli.main(["train", "--arm", "2d", "--clips", folder, *SMALL, *words]) == 1
    printed, said = capsys.readouterr()
    named = {"num_heads": "latent_dim", "noise_schedule": "diffusion_steps"}.get(option, option)
    assert (printed, len(said.splitlines())) == ("", 1)
    assert said.startswith((f"error: --{named}: expected ", f"error: --{named} {value}: expected "))
    assert not place.exists()
