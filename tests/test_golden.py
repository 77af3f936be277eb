"""Golden values: what a fixed seed gives, bit for bit. A change that only moves code changes none of them.

They are computed in a process of its own whose mathematics is that of the oldest x86 processors and of one thread, so
that they hold on every one. A change that means to alter them says so in its commit and writes golden.json anew:

    python tests/test_golden.py --write
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
STORED = HERE / "golden.json"
PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-FMA4,-AVX512F,-AVX_Usable,-AVX2_Usable,-FMA_Usable",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Prescott",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE, HERE / "bench"))),
}
"""No instruction that some x86 processors lack, one thread, and no order of sums that depends on the processor."""
SMALL = (
    "--layers", "1", "--latent_dim", "16", "--diffusion_steps", "8", "--batch_size", "3", "--crop_frames", "20",
    "--text_features", "words", "--use_ema", "--avg_model_beta", "0.9", "--lr", "1e-2", "--num_steps", "2",
    "--log_interval", "2", "--save_interval", "2", "--mask_frames",
)  # fmt: skip
TRAININGS = {
    "3d": ("--supervision", "3d"),
    "2d": ("--supervision", "2d", "--teacher", "lifted", "--unroll", "off"),
    "2d unrolled": ("--supervision", "2d", "--teacher", "lifted", "--unroll_below", "12"),
}


def compute_own(place: Path, content: str) -> dict[str, Any]:
    """Return all but MDM's: a data set's content, checkpoints of the stand-in, a bench, and exported files."""
    import small_bench
    from clips import motion

    from videomdm_ext.bench.report import figures
    from videomdm_ext.bench.run import Bench
    from videomdm_ext.data.tasks import Engine
    from videomdm_ext.motion.skeletons import SMPL22
    from videomdm_ext.render.bvh import to_bvh
    from videomdm_ext.render.fitting import fit
    from videomdm_ext.render.glb import to_glb
    from videomdm_ext.supervision import refinement

    figures.sections = lambda results: []  # type: ignore[assignment]  # no picture is among the values
    quick = functools.partial(refinement.Refinement, first=10, rounds=2, iterations=5)
    refinement.Refinement = quick  # type: ignore[misc,assignment]
    plan = small_bench.make_plan(place / "set", content, steps=6, arms=("3d", "lifted", "2d"))
    Bench(plan, place / "bench", engine=Engine(processes=0)).run()
    fitted = fit(motion("walk")[:40], SMPL22, 20.0)
    return {
        "data set": content,
        "checkpoints of the stand-in": train(place / "standin", place / "set", ()),
        "metrics.json": hash_rounded(place / "bench" / "metrics.json"),
        "scores": scores(place / "bench" / "metrics.json"),
        "walk.bvh": digest(to_bvh(fitted, SMPL22, 20.0).encode()),
        "walk.glb": digest(to_glb(fitted, SMPL22, 20.0, "walk")),
    }


def compute_mdm(place: Path, _: str) -> dict[str, Any]:
    """Return checkpoints of the same trainings by MDM."""
    return {"checkpoints of MDM": train(place / "mdm", place / "set", ("--mdm", "auto"))}


PARTS = {"own": compute_own, "mdm": compute_mdm}


def compute(place: Path, parts: list[str]) -> None:
    """Write PART.json for each part, computed in a fork of its own: a process uses one host."""
    import small_bench
    import torch

    torch.set_num_threads(1)
    content = small_bench.write_set(place / "set").content_hash
    for part in parts:
        if not (child := os.fork()):
            status = 1
            try:
                (place / f"{part}.json").write_text(json.dumps(PARTS[part](place, content)), encoding="utf-8")
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{part}: failed")


def train(place: Path, clips: Path, host: tuple[str, ...]) -> dict[str, str]:
    """Return a hash of the last checkpoint of each training on a set."""
    from videomdm_ext import run

    found = {}
    for name, words in TRAININGS.items():
        known = ["--clips", str(clips), "--save_dir", str(place / name)]
        if run.main([*host, "train.train_mdm", *known, *SMALL, *words]):
            raise SystemExit(f"the training {name} failed")
        found[name] = hash_checkpoint(place / name / "model000000002.pt")
    return found


def hash_checkpoint(path: Path) -> str:
    """Return a hash of the names, types, shapes and bytes of a checkpoint's weights and of their moving average."""
    import torch

    found, stored = hashlib.sha256(), torch.load(path)
    for kind in ("model", "model_avg"):
        for name, tensor in sorted(stored[kind].items()):
            found.update(f"{kind}/{name} {tensor.dtype} {list(tensor.shape)}".encode())
            found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def hash_rounded(path: Path) -> str:
    """Return a hash of a JSON file, its numbers in ten digits: the last bits of a logarithm are the C library's."""
    content = json.loads(path.read_text(encoding="utf-8"), parse_float=lambda text: f"{float(text):.10g}")
    return digest(json.dumps(content).encode())


def scores(path: Path) -> dict[str, dict[str, str]]:
    """Return each arm's scores in six digits: they show what changed where metrics.json did."""
    arms = json.loads(path.read_text(encoding="utf-8"))["arms"]
    return {arm["name"]: {k: f"{v:.6g}" for k, v in arm["trainings"][0]["metrics"].items()} for arm in arms}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def computed(place: Path) -> dict[str, Any]:
    """Return what `compute` finds in a new process with plain mathematics; MDM's part where there is a checkout."""
    from conftest import why_no_mdm

    parts = [part for part in PARTS if part != "mdm" or why_no_mdm(()) is None]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOMDM_PLUGINS")}
    command = [sys.executable, str(Path(__file__).resolve()), "--compute", str(place), *parts]
    done = subprocess.run(command, env={**environment, **PLAIN}, cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    texts = [(place / f"{part}.json").read_text(encoding="utf-8") for part in parts]
    return {name: value for text in texts for name, value in json.loads(text).items()}


def stored() -> dict[str, Any]:
    return dict(json.loads(STORED.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_fixed_seed_gives_the_golden_data_set_checkpoints_scores_and_files(tmp_path):
    found = computed(tmp_path)
    assert found == {name: stored()[name] for name in found}, "python tests/test_golden.py --write, if it is meant"
    assert {*found, "checkpoints of MDM"} == set(stored())


def main(words: list[str]) -> None:
    """`--write`: renew golden.json, MDM's part where a checkout is found; `--compute PLACE PARTS`: some of it."""
    if words[:1] == ["--compute"]:
        compute(Path(words[1]), words[2:])
    elif words == ["--write"]:
        with tempfile.TemporaryDirectory() as place:
            found = (stored() if STORED.is_file() else {}) | computed(Path(place))
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        raise SystemExit("python tests/test_golden.py --write")


if __name__ == "__main__":
    main(sys.argv[1:])
