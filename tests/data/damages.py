"""Damages of a prepared copy, and what is said of each."""

from array_record.python import array_record_module


def flip(path, what, bit=1):
    """Change one bit of the first place where a file holds these bytes."""
    content = bytearray(path.read_bytes())
    content[content.index(what)] ^= bit
    path.write_bytes(content)


def rewrite(path, change):
    """Whole records again, in a file that is right in itself."""
    reader = array_record_module.ArrayRecordReader(str(path))
    records = change(reader.read_all())
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def break_a_byte(partial):
    flip(partial / "camvid-train.array_record-00000", b"train_001")


def break_one_record(partial):
    shard = partial / "camvid-train.array_record-00001"
    rewrite(shard, lambda records: [records[0], records[1].replace(b"IEND", b"iEND")])


def break_the_order(partial):
    rewrite(partial / "camvid-train.array_record-00001", lambda records: records[::-1])


def break_the_length(partial):
    shard = partial / "camvid-train.array_record-00000"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def break_by_removal(partial):
    (partial / "camvid-train.array_record-00001").unlink()


DAMAGE = [
    (break_a_byte, r"record 1 of train in .* cannot be read: Corrupted .*"),
    (break_one_record, r"record 3 of train in .* has other bytes, expected train_003 as it was .*"),
    (break_the_order, r"record 2 of train in .* is train_003, expected train_002 as it was .*"),
    (break_the_length, r"record 0 of train in .* cannot be read: it is empty"),
    (break_by_removal, r"record 2 of train in .* cannot be read: .*No such file.*"),
]
