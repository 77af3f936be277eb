"""Commands that write are killed at random moments, VIDEOMDM_KILLS times in all, and lose nothing (CONTRIBUTING.md)."""

import json
import os
import sys
from importlib.util import find_spec

import forks
import pytest

from videomdm_ext.mdm import checkout

VERBS = ("train", pytest.param("train_mdm", marks=pytest.mark.mdm), "import", "refine", "bench", "film")


@pytest.mark.soak
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_that_is_killed_again_and_again_leaves_only_whole_files_and_ends_as_if_it_had_not_been(
    verb, tmp_path
):
    if verb == "film" and not all(map(find_spec, ("anny", "moderngl", "mediapipe"))):
        pytest.skip("needs the extras film and video")
    kills = -(-int(os.environ.get("VIDEOMDM_KILLS", "100")) // len(VERBS))
    root = [str(checkout.find().root)] if verb == "train_mdm" else []
    paths = os.pathsep.join(path for path in sys.path if path)
    words = ["-W", "ignore", "-m", "soak", verb, str(tmp_path / "work"), str(kills), *root]
    done = forks.run(words, env={"PYTHONPATH": paths}, timeout=36_000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    assert found["kills"] >= kills
    assert found["unreadable"] == found["different"] == []
    assert found["compared"] > 0
