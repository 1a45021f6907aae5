"""CIFAR-10 files as they are published, small: written byte by byte, as Python 2 and NumPy 1 did."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from widelimit.training.data import cifar10

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
RNG = np.random.default_rng(0)
PLANES = RNG.integers(0, 256, (6, 8, 3, 32, 32), np.uint8)  # file, image, channel, row, column
LABELS = RNG.permuted(np.tile(np.arange(8), (6, 1)), axis=1)


def text(value: bytes) -> bytes:
    """A Python 2 string: SHORT_BINSTRING up to 255 bytes, BINSTRING beyond."""
    short = len(value) < 256
    return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value


def number(value: int) -> bytes:
    """A Python 2 int: BININT1, BININT2 or BININT."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)


def python2_pickle(data: np.ndarray, labels: list[int], name: bytes) -> bytes:
    """Protocol 2, in the order of the published files: batch_label, labels, data, filenames."""
    dtype = b"cnumpy\ndtype\nq\x0a" + text(b"u1") + number(0) + number(1) + b"\x87Rq\x0b"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + 2 * number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08" + number(0) + b"\x85"
    array += text(b"b") + b"\x87Rq\x09"
    array += b"(" + number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86"
    array += dtype + b"\x89" + text(data.tobytes()) + b"tb"
    return (
        b"\x80\x02}q\x01("
        + (text(b"batch_label") + b"q\x02" + text(name))
        + (text(b"labels") + b"q\x04]q\x05(" + b"".join(map(number, labels)) + b"e")
        + (text(b"data") + b"q\x06" + array)
        + (
            text(b"filenames")
            + b"]("
            + b"".join(text(b"image_%d.png" % i) for i in range(len(labels)))
            + b"e"
        )
        + b"u."
    )


def write(directory: Path, binary: bool) -> Path:
    """Writes the six files and what else the archives hold."""
    directory.mkdir()
    for name, planes, labels in zip(NAMES, PLANES, LABELS, strict=True):
        data = planes.reshape(8, 3072)
        if binary:
            records = np.concatenate([labels[:, None].astype(np.uint8), data], axis=1)
            (directory / f"{name}.bin").write_bytes(records.tobytes())
        else:
            (directory / name).write_bytes(python2_pickle(data, labels.tolist(), name.encode()))
    (directory / ("batches.meta.txt" if binary else "batches.meta")).write_bytes(b"airplane\nautomobile\n")
    (directory / "readme.html").write_text("<html></html>")
    return directory


@pytest.fixture(params=[False, True], ids=["python", "binary"])
def binary(request):
    """Both published versions."""
    return request.param


@pytest.fixture
def directory(tmp_path, binary):
    """A whole directory of one version."""
    return write(tmp_path / "cifar", binary)


def undo(inputs: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """From standardised inputs back to bytes, by the statistics of the raw training planes."""
    axes = (0, 1, 3, 4) if planes.ndim == 5 else (0, 2, 3)
    return np.rint(inputs * planes.std(axis=axes) + planes.mean(axis=axes))


def test_the_written_batches_are_what_pickle_itself_reads():
    """The writer above stands for the published files, so the ordinary reader must agree with it."""
    data, labels = PLANES[0].reshape(8, 3072), LABELS[0].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4.0 to 2.4.4 complains about how such files spell dtypes
        content = pickle.loads(python2_pickle(data, labels, b"data_batch_1"), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], data)
    assert content[b"labels"] == labels and content[b"batch_label"] == b"data_batch_1"


def test_images_come_back_byte_for_byte(directory):
    """Channels last, each image with its label, standardised per channel by the training set."""
    data = cifar10(directory)
    assert data.train_inputs.shape == (40, 32, 32, 3) and data.outputs == 10 and data.labelled
    np.testing.assert_allclose(data.train_inputs.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(data.train_inputs.std(axis=(0, 1, 2)), 1, atol=1e-4)
    test = undo(data.test_inputs, PLANES[:5])
    np.testing.assert_array_equal(test, PLANES[5].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.test_targets, LABELS[5])
    known = {
        planes.transpose(1, 2, 0).tobytes(): label
        for file, labels in zip(PLANES[:5], LABELS[:5], strict=True)
        for planes, label in zip(file, labels, strict=True)
    }
    back = undo(data.train_inputs, PLANES[:5]).astype(np.uint8)
    assert [known.pop(image.tobytes()) for image in back] == data.train_targets.tolist() and not known


def test_both_versions_hold_the_same_data(tmp_path):
    """The two archives are the same images in the same order."""
    python, binary = (cifar10(write(tmp_path / str(flag), flag), seed=3) for flag in (False, True))
    assert python.fingerprint() == binary.fingerprint()


def test_the_folder_of_the_archive_is_found(tmp_path, binary):
    """Users pass the folder they unpacked into as often as the one that holds the batches."""
    inner = write(tmp_path / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py"), binary)
    prints = {cifar10(place).fingerprint() for place in (tmp_path, inner, str(inner))}
    assert len(prints) == 1


def test_subsets_classes_and_forms(directory):
    """Classes are renumbered in the order given; statistics stay those of all images of the classes."""
    full = cifar10(directory, classes=(7, 2))
    part = cifar10(directory, classes=(7, 2), samples=3, test_samples=1)
    assert full.samples == 10 and full.outputs == 2 and len(full.test_inputs) == 2
    np.testing.assert_array_equal(part.train_inputs, full.train_inputs[:3])
    signs = cifar10(directory, classes=(7, 2), targets="signs", form="flat")
    np.testing.assert_array_equal(signs.train_targets[:, 0], 2 * full.train_targets - 1)
    np.testing.assert_array_equal(signs.train_inputs, full.train_inputs.reshape(10, 3072))
    pairs = zip(PLANES[:5], LABELS[:5], strict=True)
    chosen = np.concatenate([planes[np.isin(labels, (7, 2))] for planes, labels in pairs])
    seven = PLANES[5][LABELS[5] == 7][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(undo(full.test_inputs, chosen)[full.test_targets == 0][0], seven)


def test_the_seed_orders_the_training_images_alone(directory):
    """Another seed keeps other images in a subset; the test set is always the same."""
    a, b, again = cifar10(directory, seed=0), cifar10(directory, seed=1), cifar10(directory, seed=0)
    assert a.fingerprint() == again.fingerprint() and not np.array_equal(a.train_targets, b.train_targets)
    np.testing.assert_array_equal(a.test_inputs, b.test_inputs)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_batches_saved_again_by_python_3_are_read(tmp_path, protocol):
    """Some mirrors load and dump the batches; every protocol spells arrays and bytes differently."""
    whole = write(tmp_path / "whole", binary=False)
    again = write(tmp_path / "again", binary=False)
    for name, planes, labels in zip(NAMES, PLANES, LABELS, strict=True):
        content = {b"data": planes.reshape(8, 3072), "labels": labels, b"filenames": [b"a.png"]}
        (again / name).write_bytes(pickle.dumps(content, protocol))
    assert cifar10(again).fingerprint() == cifar10(whole).fingerprint()


class Bomb:
    """Pickles into a call, as a hostile file would."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


HOSTILE = {
    "a call": (pickle.dumps({"data": Bomb(), "labels": [1]}, 2), "mkdir"),
    "os.system": (b"cos\nsystem\n(S'true'\ntR.", r"it asks for os\.system"),
    "eval": (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", r"it asks for builtins\.eval"),
    "objects": (pickle.dumps(np.array([Bomb()], object)), "arrays of 'O8' are not read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path, monkeypatch, case):
    """No name in the file is imported, so nothing can be called; the sentence names file and culprit."""
    payload, culprit = HOSTILE[case]
    directory = write(tmp_path / "cifar", binary=False)
    (directory / "data_batch_2").write_bytes(payload)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"data_batch_2 cannot be read as a data batch .*{culprit}"):
        cifar10(directory)
    assert not (tmp_path / "ran").exists()


def test_a_missing_directory(tmp_path):
    """A place that does not exist, and one that is a file, are told apart."""
    with pytest.raises(FileNotFoundError, match="nowhere must be the directory .*; it does not exist"):
        cifar10(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file must be the directory .*; it is a file"):
        cifar10(tmp_path / "file")


def test_an_empty_directory(tmp_path):
    """Empty, or with the archive still packed: the first step differs."""
    with pytest.raises(FileNotFoundError, match="holds no CIFAR-10 batches .*pass the directory"):
        cifar10(tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"unpack cifar-10-python\.tar\.gz there"):
        cifar10(tmp_path)


@pytest.mark.parametrize("gone", [["data_batch_3"], ["data_batch_1", "test_batch"]])
def test_missing_files_are_named(directory, binary, gone):
    """Each file that is not there is in the sentence, and none that is."""
    suffix = ".bin" if binary else ""
    for name in gone:
        (directory / (name + suffix)).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(directory)
    missing = ", ".join(name + suffix for name in gone)
    assert f"not a whole CIFAR-10 directory: {missing} missing; unpack" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 20_000, -1])
def test_a_truncated_file_is_named(directory, binary, keep):
    """Cut anywhere (an interrupted copy), the sentence names the file."""
    path = directory / ("data_batch_4.bin" if binary else "data_batch_4")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="data_batch_4.*unpack it again") as caught:
        cifar10(directory)
    assert "\n" not in str(caught.value)


def test_a_file_cut_between_records_is_named(tmp_path):
    """The binary version has no end mark, so whole records may be missing; its neighbours betray it."""
    directory = write(tmp_path / "cifar", binary=True)
    path = directory / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[: 5 * 3073])
    with pytest.raises(ValueError, match=r"got \[8, 5, 8, 8, 8\] images: data_batch_2.bin is truncated"):
        cifar10(directory)


DATA = PLANES[0].reshape(8, 3072)
ONES = [1] * 8
WRONG = {
    "a list": ([1, 2], "holds a list, not a dictionary"),
    "CIFAR-100": ({"data": DATA, "fine_labels": ONES}, "entries 'data' and 'labels'"),
    "grey": ({"data": DATA[:, :1024], "labels": ONES}, r"\[n, 3072\]; got uint8 of shape \(8, 1024\)"),
    "floats": ({"data": DATA.astype(np.float32), "labels": ONES}, "must hold uint8 data .* got float32"),
    "big-endian": ({"data": DATA.astype(">u2"), "labels": ONES}, "must hold uint8 data .* got >u2"),
    "no images": ({"data": DATA[:0], "labels": []}, r"got uint8 of shape \(0, 3072\)"),
    "a lost label": ({"data": DATA, "labels": ONES[1:]}, r"8 whole-number labels.* of shape \(7,\)"),
    "float labels": ({"data": DATA, "labels": [0.5] * 8}, "whole-number labels, one per image; got float64"),
    "label 12": ({"data": DATA, "labels": [12] * 8}, r"must hold labels 0\.\.9; got 12 to 12"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_contents_are_refused(tmp_path, case):
    """A readable pickle that is no CIFAR-10 batch is told apart from a damaged one."""
    content, message = WRONG[case]
    directory = write(tmp_path / "cifar", binary=False)
    (directory / "data_batch_5").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        cifar10(directory)
    assert "data_batch_5" in str(caught.value)


def test_bad_labels_in_the_binary_version(tmp_path):
    """CIFAR-100 has two label bytes, so its records do not fit, or read as impossible labels."""
    directory = write(tmp_path / "cifar", binary=True)
    (directory / "test_batch.bin").write_bytes(bytes([200]) * 3073)
    with pytest.raises(ValueError, match=r"must hold labels 0\.\.9; got 200 to 200"):
        cifar10(directory)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 41}, "samples must be at most the 40 there are; got 41"),
        ({"classes": (8, 9)}, r"none of the 40 samples is of classes \(8, 9\)"),
        ({"form": "nchw"}, "form must be one of 'flat', 'image'; got 'nchw'"),
        ({"targets": "signs"}, "exactly two classes; got 10"),
    ],
)
def test_bad_options_are_named(directory, options, message):
    """The options of all readers are checked alike."""
    with pytest.raises(ValueError, match=message):
        cifar10(directory, **options)


def test_a_constant_channel_becomes_zero(tmp_path):
    """Grey-scale images stored as one bright channel must not divide by 0."""
    directory = write(tmp_path / "cifar", binary=True)
    for path in directory.glob("*.bin"):
        records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073).copy()
        records[:, 1 + 1024 : 1 + 2048] = 77
        path.write_bytes(records.tobytes())
    data = cifar10(directory)
    assert (data.train_inputs[..., 1] == 0).all() and (data.test_inputs[..., 1] == 0).all()
    assert np.isfinite(data.train_inputs).all() and data.train_inputs[..., 0].std() > 0.9
