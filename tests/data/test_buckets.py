"""Raw files and prepared copies in a cloud bucket, which here is a dictionary in memory."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from collabseg_jax import data
from collabseg_jax.data import places
from collabseg_jax.errors import InputError, RunError

from . import folders, trees


class Bucket(MemoryFileSystem):
    """A file system in memory that answers to gs://, as a driver for buckets does."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The contents of all buckets, {"/BUCKET/PATH": file}; empty."""
    for name in Bucket.protocol:
        monkeypatch.setitem(_registry, name, Bucket)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "host"))
    Bucket.store.clear()
    yield Bucket.store
    Bucket.store.clear()


def upload(root: Path, address: str) -> str:
    for path in root.rglob("*"):
        if path.is_file():
            Bucket().pipe_file(f"{address}/{path.relative_to(root)}", path.read_bytes())
    return address


TREES = {
    "ade20k": trees.ade20k,
    "camvid": trees.camvid,
    "cityscapes": trees.cityscapes,
    "folder": folders.folder,
    "pascal_voc": lambda root: trees.pascal_voc(root, augmented=True),
}


@pytest.mark.parametrize("name", TREES)
def test_raw_files_in_a_bucket_are_the_same_data(name, bucket, tmp_path):
    raw = TREES[name](tmp_path / "raw")
    address = upload(raw, "gs://pictures/raw")
    here = data.prepare(name, raw_dir=str(raw), data_dir=str(tmp_path / "here"))
    there = data.prepare(name, raw_dir=address, data_dir=str(tmp_path / "there"))
    assert (there.fingerprint, there.spec, there.sizes) == (here.fingerprint, here.spec, here.sizes)
    assert data.get_spec(name, raw_dir=address) == data.get_spec(name, raw_dir=str(raw))
    for split, size in here.sizes.items():
        for i in range(size):
            assert there.source(split)[i] == here.source(split)[i]


def test_a_check_reads_a_bucket(bucket, tmp_path, monkeypatch):
    raw = trees.camvid(tmp_path / "raw")
    address = upload(raw, "gs://pictures/raw")
    there, here = data.check("camvid", raw_dir=address), data.check("camvid", raw_dir=str(raw))
    assert there.report == here.report | {"where": address} and not there.report["errors"]
    refuse(monkeypatch, "val_001.jpg", "rb")
    [error] = data.check("camvid", raw_dir=address).report["errors"]
    assert error == "val/val_001.jpg: cannot be read: Refused: 403 Forbidden, expected a file"


@pytest.mark.parametrize(
    "address,message",
    [
        ("gs://pictures/other", "raw_dir=gs://pictures/other: found nothing there, expected the f"),
        ("gs://pictures/raw/train", "raw_dir=gs://pictures/raw/train: found train_000.png, .*, ex"),
        ("ftp://host/raw", "raw_dir=ftp://host/raw: expected a folder, gs://BUCKET/PATH or s3://"),
    ],
)
def test_addresses_without_the_data(address, message, bucket, tmp_path):
    upload(trees.camvid(tmp_path / "raw"), "gs://pictures/raw")
    with pytest.raises(InputError, match=message) as error:
        data.prepare("camvid", raw_dir=address)
    assert "\n" not in str(error.value)


def test_bad_files_are_named_by_their_address(bucket, tmp_path):
    address = upload(trees.camvid(tmp_path / "raw"), "gs://pictures/raw")
    Bucket().pipe_file(f"{address}/val/val_001.jpg", b"")
    with pytest.raises(InputError, match="^gs://pictures/raw/val/val_001.jpg: 0 bytes, expected"):
        data.prepare("camvid", raw_dir=address)
    Bucket().rm(f"{address}/val/val_001.jpg")
    with pytest.raises(InputError, match="^gs://pictures/raw/valannot/val_001.png: label without"):
        data.prepare("camvid", raw_dir=address)


def test_a_driver_that_is_not_installed(monkeypatch):
    missing = {"class": "no_such_module.FileSystem", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3", missing)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"raw_dir=s3://a/b: needs s3fs: pip install -e '.\[buck"):
        data.prepare("camvid", raw_dir="s3://a/b")


def test_a_bucket_that_cannot_be_reached(bucket, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Bucket, "exists", refuse)
    with pytest.raises(InputError, match=r"cannot be reached \(ConnectionError: no route to host"):
        data.prepare("camvid", raw_dir="gs://a/b")


def host(monkeypatch, tmp_path, name):
    """Another machine, that is another place for local copies."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / name))


def test_a_copy_in_a_bucket_is_made_once_and_fetched_by_each_host(
    bucket, tmp_path, monkeypatch, capfd
):
    raw = trees.camvid(tmp_path / "raw")
    place = {"data_dir": "gs://pictures/copies"}
    first = data.prepare("camvid", raw_dir=str(raw), **place)
    inside = f"camvid/{first.fingerprint}/1.0.0"
    assert first.builder_dir == str(tmp_path / "host/buckets/gs/pictures/copies" / inside)
    for path in Path(first.builder_dir).iterdir():
        assert bucket[f"/pictures/copies/{inside}/{path.name}"].getvalue() == path.read_bytes()

    host(monkeypatch, tmp_path, "another")
    capfd.readouterr()
    for said in ("fetching gs://pictures/copies/camvid/", ""):  # the second time it is there
        second = data.prepare("camvid", **place)
        err = capfd.readouterr().err
        assert said in err and "preparing" not in err and (said or not err)
        assert second.builder_dir.startswith(str(tmp_path / "another"))
        assert (second.spec, second.sizes) == (first.spec, first.sizes)
        for split, size in first.sizes.items():
            for i in range(size):
                assert second.source(split)[i] == first.source(split)[i]

    host(monkeypatch, tmp_path, "third")
    assert data.prepare("camvid", raw_dir=str(raw), **place).fingerprint == first.fingerprint
    assert "preparing" not in capfd.readouterr().err


def test_a_copy_that_was_sent_in_part_is_sent_again(bucket, tmp_path):
    raw = trees.camvid(tmp_path / "raw")
    place = {"raw_dir": str(raw), "data_dir": "gs://pictures/copies"}
    first = data.prepare("camvid", **place)
    info = f"/pictures/copies/camvid/{first.fingerprint}/1.0.0/dataset_info.json"
    whole = dict(bucket)
    del bucket[info]
    with pytest.raises(InputError, match="no prepared camvid in gs://pictures/copies: give"):
        data.prepare("camvid", data_dir="gs://pictures/copies")
    data.prepare("camvid", **place, verify=True)
    assert bucket.keys() == whole.keys()


def test_a_damaged_copy_in_a_bucket_is_not_taken(bucket, tmp_path, monkeypatch):
    place = {"data_dir": "gs://pictures/copies"}
    first = data.prepare("camvid", raw_dir=str(trees.camvid(tmp_path / "raw")), **place)
    shard = f"gs://pictures/copies/camvid/{first.fingerprint}/1.0.0/camvid-val.array_record-00000"
    content = bytearray(Bucket().cat_file(shard))
    content[content.index(b"val_002")] ^= 1
    Bucket().pipe_file(shard, bytes(content))
    host(monkeypatch, tmp_path, "another")
    with pytest.raises(InputError, match="fetching .* failed: record 2 of val in .* cannot be re"):
        data.prepare("camvid", **place)
    assert not list((tmp_path / "another").rglob("*.array_record*"))


class Refused(Exception):
    """What drivers raise is often no OSError."""


def refuse(monkeypatch, what, mode):
    """Opening files of these names raises, until the returned context ends."""
    open_file = Bucket.open

    def refusing(self, path, *args, **kwargs):
        wanted = kwargs.get("mode") or (args[0] if args else "rb")
        if what in str(path) and wanted == mode:
            raise Refused("403\nForbidden")
        return open_file(self, path, *args, **kwargs)

    monkeypatch.setattr(Bucket, "open", refusing)


def test_errors_of_a_driver_are_one_line(bucket, tmp_path, monkeypatch):
    address = upload(trees.camvid(tmp_path / "raw"), "gs://pictures/raw")
    refuse(monkeypatch, "val_001", "rb")
    with pytest.raises(OSError, match="^Refused: 403 Forbidden$"):
        data.prepare("camvid", raw_dir=address)


def test_a_copy_that_cannot_be_sent_is_used_here_and_sent_later(bucket, tmp_path, monkeypatch):
    place = {"raw_dir": str(trees.camvid(tmp_path / "raw")), "data_dir": "gs://pictures/copies"}
    with monkeypatch.context() as patch:
        refuse(patch, "metadata.json", "wb")  # which comes late in the alphabet
        with pytest.raises(RunError, match="sending gs://.* failed: Refused: 403 Forbidden; /.*is"):
            data.prepare("camvid", **place)
        assert data.prepare("camvid", **place).sizes == {"train": 5, "val": 3}
    assert not any("dataset_info" in name for name in bucket)
    data.prepare("camvid", **place, verify=True)
    assert any("dataset_info" in name for name in bucket)


def test_what_is_a_bucket():
    assert places.is_bucket("gs://a/b") and not places.is_bucket(Path("gs://a/b"))
