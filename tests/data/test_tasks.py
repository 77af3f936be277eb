"""Long work in other processes: what one process gives, bit for bit, in processes of this machine and on Ray.

The tests of Ray start a cluster of two workers; they need the extra `scale`.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import slow
from clips import content_of
from filmed import film, write_source
from slow import SlowImporter

from videomdm_ext.cli.main import main
from videomdm_ext.data import refined, tasks
from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.importing import merge, run_import
from videomdm_ext.data.refined import make_refined
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.tasks import HERE, Engine, part_of, share_of
from videomdm_ext.errors import ConfigError, DatasetError, VideoMDMError
from videomdm_ext.supervision import refinement

FILMS = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Path, Path, Path]:
    """-> videos, what a detector found in them, and captions."""
    films = {f"film{number:02}": film("walk", azimuth=9.0 * number) for number in range(FILMS)}
    return write_source(tmp_path_factory.mktemp("source"), films)


def importer(source: tuple[Path, Path, Path], out: Path, engine: Engine = HERE, **extra: str) -> SlowImporter:
    videos, found, captions = map(str, source)
    given = {"detections": found, "format": "blazepose", "focal": "300"} | extra
    made = SlowImporter(videos, ImportOptions(captions=captions, extra=given))
    made.cache, made.engine = str(out / "detections"), engine
    return made


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory) -> Path:
    """-> the set that one process makes of the films, and checked."""
    out = tmp_path_factory.mktemp("alone") / "set"
    run_import(importer(source, out), str(out))
    check_folder(str(out))
    return out


def fork(monkeypatch: pytest.MonkeyPatch, *first: str) -> None:
    """Have processes be forks, which start in a moment, but for the first."""
    methods = iter(first)
    monkeypatch.setattr(tasks, "get_context", lambda method: multiprocessing.get_context(next(methods, "fork")))


def test_results_come_in_order_and_a_slow_first_one_holds_the_later_calls_back(tmp_path, monkeypatch):
    fork(monkeypatch)
    calls = {str(number): (str(tmp_path), number) for number in range(12)}
    results = Engine(processes=2).run(slow.count, calls, "", ordered=True)
    assert next(results) == 0
    assert len(list(tmp_path.iterdir())) <= 5
    assert list(results) == list(range(1, 12))
    assert list(HERE.run(slow.count, calls, "")) == list(range(12))


def test_a_worker_that_is_killed_is_named_with_what_to_do(monkeypatch):
    fork(monkeypatch)
    with pytest.raises(VideoMDMError, match=r"--processes 2: .* one that was killed; .* Start the command again"):
        list(Engine(processes=2).run(slow.die, {"a": (), "b": ()}, ""))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed_and_write_no_more(tmp_path):
    """Else they would work in the same folders as the same command started again."""
    code = "import sys, slow; from videomdm_ext.data.tasks import Engine\n"
    code += "list(Engine(processes=2).run(slow.write_on, {name: (sys.argv[1],) for name in 'ab'}, ''))"
    paths = os.pathsep.join(str(place) for place in (Path(__file__).parents[1], Path(__file__).parents[2]))
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL) as parent:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2 or parent.poll() is not None)
        parent.kill()
    workers = [int(place.name) for place in tmp_path.iterdir()]
    assert len(workers) == 2
    try:
        wait_until(lambda: not any(map(is_running, workers)), seconds=10)
    finally:
        for process in filter(is_running, workers):
            os.kill(process, signal.SIGKILL)


def wait_until(done: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for something; AssertionError after too long."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"expected it within {seconds} s"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_shares_are_parts_that_make_the_whole_and_others_are_refused():
    found = [part_of(range(10), (part, 3)) for part in (1, 2, 3)]
    assert [number for part in found for number in part] == list(range(10))
    assert [len(part) for part in found] == [3, 3, 4]
    for words in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ConfigError, match="--shard: expected a part and their number, as 3/8"):
            share_of(words)


def test_two_processes_import_and_check_videos_as_one_does(source, alone, tmp_path, monkeypatch):
    """Those that watch are new ones, which bring nothing along but their call."""
    fork(monkeypatch, "spawn")
    out, engine, seen = tmp_path / "set", Engine(processes=2), []
    made = importer(source, out, engine)
    made.watching = lambda *told: seen.append(told)
    run_import(made, str(out))
    assert seen[-1] == ("videos", FILMS, FILMS)
    check_folder(str(out), engine=engine)
    assert content_of(out) == content_of(alone)  # with what the check keeps of each clip
    assert check_folder(str(out)).cached == FILMS


def test_parts_of_the_videos_merge_to_the_clips_of_all(source, alone, tmp_path):
    """Their splits are their own."""
    parts = [tmp_path / f"part{part}" for part in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        run_import(importer(source, part, shard=f"{number}/3"), str(part))
    merge([str(part) for part in parts], str(tmp_path / "merged"))
    merged, whole = content_of(tmp_path / "merged"), content_of(alone)
    clips = [name for name in whole if Path(name).parent.name in ("keypoints_2d", "cameras", "mediapipe")]
    assert sum(read_card(str(tmp_path / "merged")).counts.values()) == FILMS
    assert {n: merged[n] for n in clips if "film" in n} == {n: whole[n] for n in clips if "film" in n}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "import", "joints", "x", "--engine", "ray"], "--engine, --processes: expected none with joints"),
        (["data", "check", "DIR", "--engine", "ray"], "--engine ray: expected the package ray, found none that works"),
    ],
)
def test_what_is_no_task_for_ray_and_a_missing_ray_are_one_message(alone, monkeypatch, capsys, words, message):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([str(alone) if word == "DIR" else word for word in words]) == 1
    assert message in capsys.readouterr().err


def test_a_machine_without_the_folder_refuses_its_task_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"^set: expected a folder that all machines of the cluster share, found an"):
        tasks._task(abs, (1,), "/nowhere", "set", "set/.seen-0")


# -- Ray --------------------------------------------------------------------------------------------------------------

RAY = Engine("ray")


@pytest.fixture(scope="module")
def cluster():
    """-> a cluster of two machines with a core each, and the second of them, which has a GPU by its own account."""
    ray = pytest.importorskip("ray", reason="needs the extra scale")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_agent_register_timeout_ms", "120000")  # of a busy machine
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes = [made.add_node(num_cpus=1, num_gpus=1)]
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made, nodes
        ray.shutdown()
        made.shutdown()


@pytest.mark.extras
@pytest.mark.slow
def test_ray_imports_every_film_once_when_a_worker_is_killed_in_the_middle_and_as_one_process_does(
    cluster, source, alone, tmp_path, caplog
):
    out, killed, over = tmp_path / "set", [], threading.Event()
    made = importer(source, out, RAY)
    made.seconds = 0.5

    def kill() -> None:
        """The process that watches a film, once three are done."""
        while not killed and not over.wait(0.01):
            watched = len(list((out / "detections").glob("*.npz")))
            for begun in out.glob("*.begun") if watched >= 3 else ():
                with contextlib.suppress(ValueError, FileNotFoundError):  # not written yet, or gone
                    os.kill(int(begun.read_text()), signal.SIGKILL)
                    killed.append(begun.stem)
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    run_import(made, str(out))
    over.set()
    killer.join()
    (told,) = [record.getMessage() for record in caplog.records if "its worker died" in record.getMessage()]
    assert told.startswith(f"{killed[0]}: its worker died, it is tried again (2 of 3): The worker died unexpectedly")
    check_folder(str(out), engine=RAY)
    assert content_of(out) == content_of(alone)


@pytest.mark.extras
@pytest.mark.slow
def test_ray_gives_up_a_deadly_task_passes_on_a_refusal_and_shares_out_gpus(cluster, tmp_path, caplog):
    with pytest.raises(VideoMDMError, match=r"^deadly: expected a worker that lives to its end, found 3 that died"):
        list(RAY.run(slow.die, {"deadly": ()}, str(tmp_path)))
    assert [record.getMessage()[:53] for record in caplog.records] == [
        f"deadly: its worker died, it is tried again ({n} of 3): T"[:53] for n in (2, 3)
    ]
    with pytest.raises(DatasetError, match=r"^clip: expected one, found none\. Make it\.$"):
        list(RAY.run(slow.refuse, {"clip": ()}, str(tmp_path)))
    assert list(RAY.run(slow.gpus, {"a": (), "b": ()}, str(tmp_path), device=True)) == [["0"], ["0"]]
    assert list(RAY.run(slow.gpus, {"a": ()}, str(tmp_path))) == [[]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extras
@pytest.mark.slow
def test_ray_refines_as_one_process_does_while_a_whole_machine_is_lost(cluster, alone, tmp_path, monkeypatch):
    made, nodes = cluster
    brief = refinement.Refinement(first=5, rounds=0)
    monkeypatch.setattr(refined, "refinement", SimpleNamespace(Refinement=lambda: brief))
    paths = [str(shutil.copytree(alone, tmp_path / name)) for name in ("one", "many")]

    def lose(*_: int) -> None:
        if nodes:
            made.remove_node(nodes.pop())

    make_refined(paths[0], read_card(paths[0]), batch=2)
    make_refined(paths[1], read_card(paths[1]), lose, batch=2, engine=RAY)
    assert content_of(paths[1]) == content_of(paths[0])
    assert "refined/mediapipe/film00_0.npz" in content_of(paths[1])
