"""Files written by an enemy are refused with a message: nothing is run, hung up or allocated beyond a bound."""

import io
import itertools
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import CARD, make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from videomdm_ext.data import files
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.errors import DatasetError

MIB = 1 << 20
GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)


class Bomb:
    """What a pickle runs when it is loaded: it would leave a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.place),)


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    """-> the bytes of an array with any header."""
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return np.lib.format.MAGIC_PREFIX + bytes((version, 0)) + size + text + content


def declares(shape: str, descr: str = "'<f4'", content: bytes = b"", fortran: str = "False") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}", content)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return content.getvalue()


def peak(action: Callable[[], object]) -> int:
    """-> bytes that an action had allocated at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refusal(content: bytes, name: str = "x.npy") -> str:
    """-> the message with which these bytes are refused."""
    with pytest.raises(DatasetError) as caught:
        read(content, name)
    return str(caught.value)


def read(content: bytes, name: str) -> object:
    if name.endswith("npy"):
        return files.array_from(content, name)
    return files.arrays_from(content, name, needed=("points",))


HEADERS = {
    "a billion frames": (declares("(1000000000, 263)", content=bytes(64)), "more than the"),
    "a little more than there is": (declares("(5, 3)", content=bytes(48)), r"declares \[5, 3\], 60 bytes, and has 48"),
    "a little less than there is": (declares("(3, 3)", content=bytes(48)), r"declares \[3, 3\], 36 bytes, and has 48"),
    "a negative length": (declares("(-4, -3)", content=bytes(48)), "declares the shape"),
    "a length that overflows": (declares(f"({1 << 62}, {1 << 62})", content=bytes(48)), "more than the"),
    "a length of words": (declares("('4', 3)", content=bytes(48)), "shape is not valid"),
    "a length that is a bool": (declares("(True, 12)", content=bytes(48)), "declares the shape"),
    "sixty dimensions": (declares("(" + "1, " * 60 + ")", content=bytes(4)), "declares the shape"),
    "objects": (declares("(1,)", "'|O'", bytes(8)), "found a pickle .it holds pickled objects"),
    "complex numbers": (declares("(2,)", "'<c8'", bytes(16)), "'<c8', not plain numbers"),
    "words": (declares("(2,)", "'<U2'", bytes(16)), "'<U2', not plain numbers"),
    "dates": (declares("(2,)", "'<M8[s]'", bytes(16)), "not plain numbers"),
    "a record": (declares("(2,)", "[('a', '<f4'), ('b', '|O')]", bytes(16)), "found a pickle"),
    "a dtype of a billion": (declares("(1,)", "('<f4', (1000000000,))", bytes(16)), "found something else"),
    "a program": (npy("__import__('os').mkdir('x')", bytes(16)), "found something else"),
    "a nest of lists": (npy("[" * 5000, bytes(16)), "found something else"),
    "a huge number": (declares("(" + "9" * 9000 + ",)", content=bytes(4)), "found something else"),
    "an unfinished header": (declares("(4, 3)", content=bytes(48))[:40], "found something else"),
    "a version of the future": (npy("{}", version=9), "unknown version"),
    "another magic": (b"\x93NUMPX" + declares("(4, 3)", content=bytes(48))[6:], "does not begin as an array"),
    "nothing": (b"", "does not begin as an array"),
    "a bare pickle": (pickle.dumps([1.0]), "found a pickle"),
    "an archive": (archive({"points.npy": files.array_bytes(GOOD)}), "does not begin as an array"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_array_whose_header_declares_nonsense_is_refused_before_anything_is_allocated(name: str):
    content, message = HEADERS[name]
    with pytest.raises(DatasetError, match=message) as caught:
        files.array_from(content, "x.npy")
    assert str(caught.value).startswith("x.npy: expected one array of numbers (.npy), found ")
    assert len(str(caught.value)) < 400
    assert peak(lambda: refusal(content)) < 8 * MIB


def saved(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def test_every_kind_of_plain_number_in_either_order_reads_as_numpy_reads_it():
    for kind, order in itertools.product(("<f4", ">f4", "<f8", "<f2", "<i8", ">i2", "|u1", "|b1"), "CF"):
        values = np.array(np.arange(24).reshape(2, 3, 4) % 2, dtype=kind, order=order)
        found = files.array_from(saved(values), "x.npy")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(np.float32))
        assert found.flags.writeable
    found = files.array_from(saved(np.array([1e300, -1e300, np.nan, 1.5])), "x.npy")  # too large for float32
    np.testing.assert_array_equal(found, [np.inf, -np.inf, np.nan, 1.5])


ARCHIVES = {
    "a zip bomb": (archive({"points.npy": bytes(50 * MIB)}, zipfile.ZIP_DEFLATED), "it unpacks from"),
    "a bomb in many parts": (
        archive({f"p{n}.npy": bytes(MIB) for n in range(40)}, zipfile.ZIP_DEFLATED),
        "it unpacks from",
    ),
    "a thousand members": (archive({f"p{n}.npy": b"" for n in range(1000)}), "1000 members"),
    "a member above the folder": (archive({"../points.npy": files.array_bytes(GOOD)}), "no name of an array"),
    "a member with backslashes": (archive({"..\\points.npy": files.array_bytes(GOOD)}), "no name of an array"),
    "a member from the root": (archive({"/etc/points.npy": files.array_bytes(GOOD)}), "no name of an array"),
    "a member of a drive": (archive({"C:points.npy": files.array_bytes(GOOD)}), "no name of an array"),
    "a member that is no array": (archive({"points.txt": b"hello"}), "no name of an array"),
    "a pickle": (archive({"points.npy": declares("(1,)", "'|O'", bytes(8))}), "found a pickle"),
    "a billion frames": (archive({"points.npy": declares("(1000000000, 22, 2)", content=bytes(88))}), "more than the"),
    "another packing": (archive({"points.npy": files.array_bytes(GOOD)}, zipfile.ZIP_BZIP2), "packed in a way"),
    "other arrays": (archive({"other.npy": files.array_bytes(GOOD)}), "expected points, found other"),
    "nothing": (b"", "found something else"),
    "a bare pickle": (pickle.dumps({"points": 1}), "found a pickle"),
    "a lone array": (files.array_bytes(GOOD), "found something else"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_would_do_harm_is_refused_before_it_is_unpacked(name: str):
    content, message = ARCHIVES[name]
    with pytest.raises(DatasetError, match=message):
        files.arrays_from(content, "x.npz", needed=("points",))
    assert peak(lambda: refusal(content, "x.npz")) < 3 * MIB


def test_archives_that_lie_about_their_sizes_or_share_their_bytes_are_refused():
    """The directory declares 48 bytes more than are there, or 40 MiB of which 80 bytes are stored."""
    honest = archive({"points.npy": files.array_bytes(GOOD)})
    at = honest.index(b"PK\x01\x02")
    for declared in (len(files.array_bytes(GOOD)) + 48, 40 * MIB):
        lying = honest[: at + 24] + struct.pack("<I", declared) + honest[at + 28 :]
        assert "found something else" in refusal(lying, "x.npz")
        assert peak(lambda lying=lying: refusal(lying, "x.npz")) < MIB
    # Overlapping members unpack a small file many times over; the sum of what they claim is more than there is
    one = archive({"points.npy": files.array_bytes(np.zeros((300, 66), dtype=np.float32))})
    at, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    entry = one[at:end]
    entries = b"".join(entry.replace(b"points.npy", b"point%d.npy" % n) for n in range(9))
    finish = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, len(entries), at, 0)
    with pytest.raises(DatasetError, match="overlap"):
        files.arrays_from(one[:at] + entries + finish, "x.npz", needed=("point1",))


def test_only_the_named_members_of_an_archive_are_looked_at_and_one_of_equal_numbers_packs_well():
    content = archive({"points.npy": files.array_bytes(GOOD), "gender.npy": saved(np.array(["male"]))})
    assert "'<U4', not plain numbers" in refusal(content, "x.npz")
    found = files.arrays_from(content, "x.npz", needed=("points",), optional=("absent",))
    assert list(found) == ["points"]
    np.testing.assert_array_equal(found["points"], GOOD)
    content = io.BytesIO()
    np.savez_compressed(content, points=np.ones((2000, 22), dtype=np.float32))
    assert len(content.getvalue()) < 2000
    assert files.arrays_from(content.getvalue(), "x.npz", needed=("points",))["points"].sum() == 44_000


def test_pickles_are_not_run(tmp_path: Path):
    mark = tmp_path / "ran"
    values = np.array([Bomb(mark)], dtype=object)
    np.save(tmp_path / "x.npy", values)
    np.savez(tmp_path / "x.npz", points=values)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb(mark)))
    for place in ("x.npy", "bare.npy"):
        with pytest.raises(files.PickleInsideError, match="may run any program"):
            files.read_array(str(tmp_path / place))
    with pytest.raises(files.PickleInsideError, match="may run any program"):
        files.read_arrays(str(tmp_path / "x.npz"), needed=("points",))
    assert not mark.exists()


def test_a_file_larger_than_its_limit_is_refused_unread(tmp_path: Path):
    place = tmp_path / "huge.txt"
    with place.open("wb") as file:
        file.truncate(3 << 30)  # takes no space on the disk
    for action in (files.read_text, files.read_array, lambda path: files.read_json(path, "object")):

        def refused(action: Callable[[str], object] = action) -> None:
            with pytest.raises(DatasetError, match=r"huge.txt: expected at most \d+ bytes, found 3221225472"):
                action(str(place))

        assert peak(refused) < MIB
    small = tmp_path / "small.txt"
    small.write_text("12345")
    assert files.read_text(str(small), limit=5) == "12345"
    with pytest.raises(DatasetError, match="expected at most 4 bytes, found 5"):
        files.read_text(str(small), limit=4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_folders_and_devices_are_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for place in (tmp_path / "pipe.npy", tmp_path / "folder.npy", Path("/dev/zero")):
        with pytest.raises(DatasetError, match=r"not a plain file|expected a file that can be read"):
            files.read_bytes(str(place))


def test_json_that_is_broken_or_nested_too_deep_is_refused(tmp_path: Path):
    place = tmp_path / "x.json"
    halves = ('"\\ud800"', '"\\udc00\\ud800"')
    numbers = ("9" * 10_000, "9" * 21, "NaN", "-Infinity", "1e999", "[1, -1e400]")
    for text in ("[" * 200_000, '{"a":' * 200_000, "{", "", *numbers, *halves):
        place.write_text(text)
        with pytest.raises(DatasetError, match=r"x.json: expected JSON, found"):
            files.read_json(place, "object")


def test_links_that_lead_out_of_a_folder_are_refused_when_it_is_listed(tmp_path: Path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for name in ("b.npy", "a.npy", ".hidden.npy", "notes.txt"):
        (inside / name).write_text("x")
    (inside / "folder.npy").mkdir()
    (inside / "c.npy").symlink_to(inside / "a.npy")
    assert files.list_files(str(inside), ".npy") == ["a.npy", "b.npy", "c.npy"]
    assert files.list_files(str(tmp_path / "nowhere")) == []
    (outside / "secret.npy").write_text("x")
    (inside / "d.npy").symlink_to(outside / "secret.npy")
    with pytest.raises(DatasetError, match=r"d.npy: expected a file inside .*in, found a link that leads out"):
        files.list_files(str(inside), ".npy")
    assert files.list_files(str(inside), ".npy", root=str(tmp_path))[-1] == "d.npy"
    for name in ("set", "set2"):  # one that begins like another is not inside it
        (tmp_path / name).mkdir()
    assert files.leads_out(str(tmp_path / "set2"), str(tmp_path / "set"))
    assert files.leads_out(str(tmp_path / "set" / ".." / "set2"), str(tmp_path / "set"))
    assert not files.leads_out(str(tmp_path / "set" / "x"), str(tmp_path / "set"))


def test_a_data_set_full_of_hostile_files_is_checked_to_the_end(tmp_path: Path):
    clips = [make_clip(name=name) for name in ("walk", "jump", "kick", "punch", "spin")]
    write_folder(str(tmp_path), {"train": clips}, CARD)
    (tmp_path / "keypoints_2d/walk_0.npz").write_bytes(ARCHIVES["a zip bomb"][0])
    (tmp_path / "teacher_vecs/bent/jump_0.npy").write_bytes(HEADERS["a billion frames"][0])
    (tmp_path / "cameras/kick_0.npz").write_bytes(ARCHIVES["a member above the folder"][0])
    (tmp_path / "texts/punch_0.txt").write_bytes(b"a" * (2 * MIB))
    np.save(tmp_path / "new_joint_vecs/spin_0.npy", np.array([Bomb(tmp_path / "ran")], dtype=object))
    found = check_folder(str(tmp_path))
    told = {item.clip_id: item.kind for item in found.errors if item.clip_id}
    corrupt = dict.fromkeys(("walk_0", "jump_0", "kick_0", "punch_0"), "corrupt-file")
    assert told == corrupt | {"spin_0": "pickle"}
    assert not (tmp_path / "ran").exists()


VALID = {
    "x.npy": files.array_bytes(np.linspace(0, 1, 60, dtype=np.float32).reshape(10, 6)),
    "x.npz": files.arrays_bytes({"points": GOOD, "confidence": GOOD[:, 0]}),
    "packed.npz": archive({"points.npy": files.array_bytes(np.zeros((50, 6), np.float32))}, zipfile.ZIP_DEFLATED),
}


@given(
    name=st.sampled_from(sorted(VALID)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(-40, 40),
)
def test_a_valid_file_with_changed_bytes_reads_or_raises_a_dataset_error(
    name: str, edits: list[tuple[int, int]], cut: int
):
    """Bytes are replaced, and the file is cut or extended."""
    made = bytearray(VALID[name])
    for place, value in edits:
        made[place % len(made)] = value
    holds(bytes(made[: len(made) + cut]) + bytes(max(cut, 0)), name)


@settings(max_examples=15)
@given(
    descr=st.sampled_from(["'<f4'", "'|O'", "'<f8'", "'>i2'", "'<U3'", "[('a', '<f4')]", "'<f16'", "'f'", "7", "None"]),
    shape=st.lists(st.integers(-2, 1 << 70), max_size=4).map(lambda s: str(tuple(s))) | st.text(max_size=12),
    fortran=st.sampled_from(["True", "False", "0", "'x'"]),
    content=st.binary(max_size=64),
)
def test_any_header_reads_or_raises_a_dataset_error(descr: str, shape: str, fortran: str, content: bytes):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}".encode("latin1", "replace")
    made = npy(header.decode("latin1"), content)
    holds(made, "x.npy")
    holds(archive({"points.npy": made}), "x.npz")


def holds(content: bytes, name: str) -> None:
    """Reading gives arrays or a DatasetError that names the file, within a bound of memory."""

    told: list[str] = []

    def attempt() -> None:
        try:
            read(content, name)
        except DatasetError as error:
            told.append(str(error))

    assert peak(attempt) < MIB
    assert all(message.startswith(f"{name}: expected ") for message in told)


def test_the_bytes_that_are_written_are_read_by_numpy_and_back(tmp_path: Path):
    (tmp_path / "x.npz").write_bytes(VALID["x.npz"])
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["points"], GOOD)
    np.testing.assert_array_equal(files.read_arrays(str(tmp_path / "x.npz"), needed=("points",))["points"], GOOD)
    assert zlib.crc32(VALID["x.npz"]) == zlib.crc32(files.arrays_bytes({"points": GOOD, "confidence": GOOD[:, 0]}))
