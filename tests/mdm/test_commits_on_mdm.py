"""Every commit of MDM that is tested, since 2022: equal training in 3D, and 2D from the training to an edited motion.

VIDEOMDM_COMMITS=all tests them all, or those that it names; without it, the last of the early ones.
"""

import json
import os
import subprocess
from pathlib import Path

import mdm_runs
import numpy as np
import pytest
import torch
from clips import CARD, make_clip
from mdm_runs import differences

from videomdm_ext.data.building import write_folder
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.checkout import PARSER

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

ASKED = os.environ.get("VIDEOMDM_COMMITS", "2ce584a")
COMMITS = [commit for commit in checkout.TESTED if ASKED == "all" or commit[:7] in ASKED]
STEPS = ("--num_steps", "3", "--save_interval", "3", "--log_interval", "2")
WITHOUT_STEPS = ("904e4f1", "5224ee5")
"""Commits whose diffusion has 1,000 steps whatever is asked for; sampling them takes long."""


@pytest.fixture(scope="module", params=COMMITS, ids=lambda commit: commit[:7])
def places(request, mdm_checkout, tmp_path_factory) -> tuple[Path, Path]:
    """-> two clones at a commit: one unedited, one installed, with Windows line endings and a 2D set beside it."""
    folder = tmp_path_factory.mktemp(request.param[:7])
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", "--shared", "-n", str(mdm_checkout.root), str(source)], check=True)
    subprocess.run(["git", "-C", str(source), "checkout", "-q", request.param], check=True)
    theirs, ours = (mdm_runs.clone(source, folder / kind / "mdm") for kind in ("unedited", "installed"))
    with (ours / "data_loaders/humanml/utils/plot_script.py").open("a") as file:
        file.write("\n\ndef plot_3d_motion(*_, **__):\n    raise SystemExit\n")  # what a test looks at is saved before
    (ours / PARSER).write_bytes((ours / PARSER).read_bytes().replace(b"\n", b"\r\n"))
    clips = [make_clip(name=name) for name in ("dance_a", "walk", "jump", "spin", "kick")]
    write_folder(str(ours / "set"), {"train": clips}, CARD)
    checkout.install(ours)
    return theirs, ours


@pytest.fixture(scope="module")
def trained(places) -> tuple[Path, Path]:
    """-> the clones after a training in 3D each, and in 2D, paired and resumed, in the installed one."""
    theirs, ours = places
    three = ["--save_dir", "save/three", *mdm_runs.SMALL, *STEPS]
    two = ["--save_dir", "save/two", *mdm_runs.SMALL, "--supervision", "2d", "--clips", "set", "--crop_frames", "24"]
    two += ["--text_features", "words", "--teacher", "lifted", "--loss", "reprojection"]
    free = [*two, "--save_dir", "save/free", "--num_steps", "2"]
    paired = [*two, "--paired", "--num_steps"]
    once, resumed = [*paired, "4", "--save_dir", "save/once"], [*paired, "4", "--resume_checkpoint", "latest"]
    again = [*free, "--resume_checkpoint", "save/free/model000000000.pt", "--overwrite"]
    mdm_runs.trainings(theirs, mdm_runs.UNEDITED, [three])
    runs = [[*three, "--supervision", "3d"], free, again, once, [*paired, "2"], resumed]
    mdm_runs.trainings(
        ours, mdm_runs.INSTALLED, [[*run, "--save_interval", "2"] if run in (free, again) else run for run in runs]
    )
    return theirs, ours


def test_training_in_3d_is_that_of_the_unedited_commit_bit_for_bit(trained):
    theirs, ours = (sorted((place / "save" / "three").glob("*.pt")) for place in trained)
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert {"model000000003.pt", "opt000000003.pt"} <= {path.name for path in ours}
    for their, our in zip(theirs, ours, strict=True):
        assert differences(torch.load(their), torch.load(our)) == []
    assert differences(torch.load(ours[0]), torch.load(ours[1])) != []
    assert json.loads((trained[1] / "save/three/args.json").read_text())["supervision"] == "3d"


def test_a_paired_run_in_2d_goes_on_bit_for_bit(trained):
    once, resumed = (trained[1] / "save" / name / "model000000004.pt" for name in ("once", "two"))
    assert differences(torch.load(once), torch.load(resumed)) == []
    assert differences(torch.load(once), torch.load(resumed.with_name("model000000002.pt"))) != []
    assert json.loads(once.with_name("args.json").read_text())["loss"] == "reprojection"


def test_our_own_sampling_and_mdms_programs_use_the_checkpoint(trained, request):
    _, ours = trained
    if request.node.callspec.params["places"].startswith(WITHOUT_STEPS) and ASKED != "all":
        pytest.skip("1,000 steps")
    words = ["--model_path", "save/two/model000000004.pt", "--num_samples", "2", "--num_repetitions", "1"]
    prompt = ["--seed", "3", "--text_prompt", "a person walks.", "--motion_length", "2"]
    for name, more in (("generate", prompt), ("edit", ["--edit_mode", "in_between"])):
        done = mdm_runs.python(ours, "-m", f"sample.{name}", *words, "--output_dir", f"out/{name}", *more)
        assert (ours / "out" / name / "results.npy").is_file(), done.stderr[-3000:]
        motion = np.load(ours / "out" / name / "results.npy", allow_pickle=True).item()["motion"]
        assert motion.shape[1:3] == (22, 3)
        assert np.isfinite(motion).all()
    own = ["--checkpoint", "save/two/model000000004.pt", "--mdm", ".", "--seconds", "1", "--count", "1", "--formats"]
    sample = ("-m", "videomdm_ext", "sample", *own, "npz", "--text", "a person", "--out", "own")
    mdm_runs.must(mdm_runs.python(ours, *sample))
    assert np.load(ours / "own" / "samples.npz")["samples"].shape == (20, 22, 3)


def test_every_byte_of_the_checkout_is_as_it_was_without_our_line(trained):
    _, ours = trained
    content = subprocess.run(["git", "-C", str(ours), "show", f"HEAD:{PARSER}"], capture_output=True).stdout
    checkout.uninstall(ours)
    assert (ours / PARSER).read_bytes() == content.replace(b"\n", b"\r\n")
