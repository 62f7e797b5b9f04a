"""Fetched gzip files and archives: checked by their content, unpacked without what is not asked."""

import gzip
import io
import tarfile
from dataclasses import replace

import pytest
from file_server import FileServer, md5, names, refusal, run

from dualnet.data import cifar10, mnist

ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = {f"cifar-10-batches-py/{name}": name.encode() * 1000 for name in cifar10.OFFICIAL_MD5}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def digits(monkeypatch):
    """Serves four gzipped files in the place of MNIST's."""
    contents = {name: name.encode() * 99 for name in mnist.OFFICIAL_MD5}
    monkeypatch.setattr(mnist, "FILES", tuple(
        replace(file, md5=md5(contents[file.name.removesuffix(".gz")]), size=1000)
        for file in mnist.FILES))
    for name, content in contents.items():
        monkeypatch.setitem(mnist.OFFICIAL_MD5, name, md5(content))
    with FileServer({f"{name}.gz": gzip.compress(content, mtime=7)
                     for name, content in contents.items()}) as server:
        yield server


def test_any_packing_of_the_right_content_is_taken(digits, tmp_path):
    run("mnist", tmp_path, digits)
    name = "t10k-labels-idx1-ubyte"
    packed = (tmp_path / "MNIST" / "raw" / f"{name}.gz").read_bytes()
    assert gzip.decompress(packed) == name.encode() * 99
    assert all(mnist.verify(tmp_path).values())


@pytest.mark.parametrize(("content", "found"), [
    (b"<html>", "no whole gzip file"), (gzip.compress(b"other", mtime=0), md5(b"other"))])
def test_a_wrong_packed_file_is_refused(digits, tmp_path, content, found):
    digits.files["train-images-idx3-ubyte.gz"] = content
    assert f"found {found}" in refusal("mnist", tmp_path, digits)
    assert names(tmp_path / "MNIST" / "raw") == []


def archive(members, links=()):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return packed.getvalue()


def serve_cifar10(monkeypatch, packed):
    monkeypatch.setattr(cifar10, "FILES", tuple(
        replace(file, md5=md5(packed), size=len(packed)) for file in cifar10.FILES))
    for name, content in BATCHES.items():
        monkeypatch.setitem(cifar10.OFFICIAL_MD5, name.partition("/")[2], md5(content))
    return FileServer({ARCHIVE: packed})


@pytest.mark.security(10, "an archive with members nobody asked for")
def test_an_archive_gives_the_expected_files_and_no_other(monkeypatch, tmp_path):
    others = {"cifar-10-batches-py/readme.html": b"hello", "../evil": b"x", "/tmp/evil": b"x"}
    folder = tmp_path / "data"
    with serve_cifar10(monkeypatch, archive(others | BATCHES)) as server:
        run("cifar10", folder, server)
    assert names(folder) == ["cifar-10-batches-py", ARCHIVE] and names(tmp_path) == ["data"]
    assert {f"cifar-10-batches-py/{path.name}": path.read_bytes()
            for path in (folder / "cifar-10-batches-py").iterdir()} == BATCHES


def test_an_archive_put_there_by_hand_needs_no_network(monkeypatch, tmp_path):
    packed = archive(BATCHES)
    (tmp_path / ARCHIVE).write_bytes(packed)
    with serve_cifar10(monkeypatch, packed) as server:
        run("cifar10", tmp_path, server)
        assert server.requests == []
    assert all(cifar10.verify(tmp_path).values())


MISSING = {name: content for name, content in BATCHES.items() if "test" not in name}
BAD_ARCHIVES = {
    "a link": (archive(MISSING, [("cifar-10-batches-py/test_batch", "/etc/passwd")]),
               "test_batch should be a file"),
    "a missing member": (archive(MISSING), "has no cifar-10-batches-py/test_batch"),
    "half of it": (archive(BATCHES)[:300], "cannot be unpacked"),
    "no archive": (b"hello", "cannot be unpacked"),
}


@pytest.mark.parametrize("damage", BAD_ARCHIVES)
@pytest.mark.security(10, "archives with a link, without a member, cut short")
def test_a_bad_archive_leaves_no_folder(monkeypatch, tmp_path, damage):
    packed, said = BAD_ARCHIVES[damage]
    with serve_cifar10(monkeypatch, packed) as server:
        assert said in refusal("cifar10", tmp_path, server)
    assert names(tmp_path) == [ARCHIVE]


def test_another_packaging_of_the_data_is_never_overwritten(monkeypatch, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with serve_cifar10(monkeypatch, archive(BATCHES)) as server:
        assert "move it away" in refusal("cifar10", tmp_path, server)
        assert server.requests == []
