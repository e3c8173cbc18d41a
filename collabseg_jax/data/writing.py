"""Writing the records of a prepared copy, shard by shard, and reading them back.

A folder that is being written holds finished shards, and in `checksums.jsonl` a line for each. A
shard without a line was not finished and is written again; a shard with a line stays. The file
remains in the finished copy, so that the copy can be verified later too.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module

from collabseg_jax.data.progress import progress
from collabseg_jax.data.source import RandomAccess, Record
from collabseg_jax.data.threads import read_ahead
from collabseg_jax.errors import InputError

EXAMPLES_PER_SHARD = 1024
CHECKSUMS = "checksums.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT)  # codes of an OSError: the disk or the quota is full


def write(
    builder: tfds.core.DatasetBuilder,
    records: Mapping[str, RandomAccess[Record]],
    folder: Path,
    *,
    threads: int = 0,
) -> None:
    """Writes what `folder` lacks, continuing an interrupted call, and prints what it does.

    Args:
      builder: what will read the copy; its info gets the splits.
      records: of every split; read in order.
      folder: made if it does not exist; only for these records.
      threads: how many read records ahead; 0 reads each when it is written.

    Raises:
      OSError: something cannot be read or written. Finished shards stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _finished_shards(folder)
    total = sum(map(len, records.values()))
    how = "once"
    if shards:
        done = sum(len(shard["records"]) for shard in shards)
        how = f"continuing after {len(shards)} finished shards, {done} of {total} records"
    print(f"preparing {builder.name} in {builder.data_path}, {how}", file=sys.stderr, flush=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=builder.name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # no number of shards
    )
    infos = []
    for split, members in records.items():
        mine = template.replace(split=split)
        lines = [shard for shard in shards if shard["split"] == split]
        for shard in _missing_shards(builder, members, mine, list(lines), threads):
            _note(folder, shard)
            lines.append(shard)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(line["records"]) for line in lines],
                num_bytes=sum(line["bytes"] for line in lines),
                filename_template=mine,
            )
        )
    builder.info.set_splits(tfds.core.SplitDict(infos))
    builder.info.write_to_directory(folder)
    for path in folder.iterdir():
        _to_disk(path)


def read_back(
    name: str, sources: Mapping[str, RandomAccess[Record]], folder: Path
) -> Iterator[Record]:
    """Reads a copy as training does, and yields each record once it equals what was written.

    Args:
      name: of the data set, for messages.
      sources: the records of every split.
      folder: of the copy.

    Returns:
      the records, splits sorted by name.

    Raises:
      InputError: names the record that is missing, out of order, or has other bytes.
    """
    expected: dict[str, list[list[str]]] = {}
    for shard in _finished_shards(folder):
        expected.setdefault(shard["split"], []).extend(shard["records"])
    if not expected:
        raise InputError(f"{folder / CHECKSUMS}: missing or empty, expected a line for each shard")
    if expected.keys() != sources.keys():
        raise InputError(f"{folder}: has {', '.join(sources)}, expected {', '.join(expected)}")
    for split in sorted(sources):
        source, written = sources[split], expected[split]
        if len(source) != len(written):
            raise InputError(
                f"{folder}: {split} has {len(source)} records, expected {len(written)}"
            )
        for i in progress(range(len(source)), f"verifying {name} {split}"):
            record = source[i]
            [right_name, checksum] = written[i]
            if [record["name"], _checksum(record)] != [right_name, checksum]:
                same = record["name"] == right_name
                wrong = "has other bytes" if same else f"is {record['name']}"
                raise InputError(
                    f"record {i} of {split} in {folder} {wrong}, expected {right_name} as it was "
                    "written"
                )
            yield record


def _missing_shards(
    builder: tfds.core.DatasetBuilder,
    members: RandomAccess[Record],
    template: tfds.core.ShardedFileTemplate,
    before: list[dict],
    threads: int,
) -> Iterator[dict]:
    """Writes the shards of a split that follow those in `before`; yields the line of each."""
    done = sum(len(shard["records"]) for shard in before)
    if done >= len(members):
        return
    what = f"preparing {builder.name} {template.split}"
    numbers = iter(progress(range(done, len(members)), what))
    for index, _ in enumerate(range(done, len(members), EXAMPLES_PER_SHARD), len(before)):
        path = template.sharded_filepath(shard_index=index, num_shards=None)
        mine = itertools.islice(numbers, EXAMPLES_PER_SHARD)
        chunk = read_ahead(members.__getitem__, mine, threads=threads)
        shard = _write_shard(Path(path), builder.info.features, chunk)
        yield {"split": template.split, **shard}
    next(numbers, None)  # so that the progress says that it is done


def _write_shard(path: Path, features: Any, records: Iterable[Record]) -> dict:
    """Writes one shard; the part of its line that says what is in it."""
    size, written = 0, []
    with _as_os_error():
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        for record in records:
            content = features.serialize_example(record)
            with _as_os_error():
                writer.write(content)
            size += len(content)
            written.append([record["name"], _checksum(record)])
    finally:
        with _as_os_error():
            writer.close()
    _to_disk(path)
    return {"bytes": size, "records": written}


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turns the RuntimeErrors of the format's writer into OSErrors with the system's code."""
    try:
        yield
    except RuntimeError as error:
        codes = (code for code in FULL if os.strerror(code) in str(error))
        raise OSError(next(codes, errno.EIO), str(error)) from error


def _note(folder: Path, shard: dict) -> None:
    """Adds the line of a shard, which is finished from here on."""
    with (folder / CHECKSUMS).open("a") as file:
        file.write(json.dumps(shard) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _finished_shards(folder: Path) -> list[dict]:
    """The lines of `checksums.jsonl`; an incomplete last line is removed."""
    path = folder / CHECKSUMS
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _checksum(record: Record) -> str:
    digest = hashlib.sha256(f"{len(record['image'])} ".encode())
    digest.update(record["image"])
    digest.update(record["label"])
    return digest.hexdigest()[:16]


def _to_disk(path: Path) -> None:
    """Waits until a file is on the disk, where a power cut cannot undo it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
