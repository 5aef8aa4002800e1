"""A plain tar is read like any other blob, and only after it was found to be the one that is named."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import BlobFeature, Digester
from rafs.errors import FormatInvalid
from rafs.tarfs import tar_blob
from rafs.units import decode_unit
from tests.support.blob_metas import plain_blob
from tests.support.nydus_vectors import one_vector

TAR = random.Random(1).randbytes((2 << 20) + 512)


def _record(tar: bytes) -> BlobRecord:
    record = plain_blob([b"x"]).record
    return replace(
        record,
        id=hashlib.sha256(tar).hexdigest(),
        features=BlobFeature.TARFS,
        digester=Digester.SHA256,
        uncompressed_size=len(tar),
    )


@pytest.mark.parametrize("step", [512, 100_000, 1 << 22])
def test_every_byte_lies_where_the_tar_has_it(step: int) -> None:
    meta = tar_blob(_record(TAR), [TAR[at : at + step] for at in range(0, len(TAR), step)])
    assert [meta.chunk(i).size for i in range(meta.chunk_count)] == [1 << 20, 1 << 20, 512]
    assert meta.uncompressed_size == (2 << 20) + 4096
    for index in range(meta.unit_count):
        unit = meta.unit(index)
        start = unit.compressed_offset
        assert start == meta.chunk(unit.first_chunk).offset
        stored = TAR[start : start + unit.compressed_size]
        assert decode_unit(meta, unit, stored) == stored


@pytest.mark.parametrize("tar", [TAR[:-1], TAR + b"\0", b"\1" + TAR[1:], b""])
def test_another_tar_is_refused(tar: bytes) -> None:
    with pytest.raises(FormatInvalid, match=f"the tar has {len(tar)} bytes"):
        tar_blob(_record(TAR), [tar])


def test_an_empty_tar_has_nothing_to_read() -> None:
    with pytest.raises(FormatInvalid, match="the tar has 0 bytes"):
        tar_blob(_record(b""), [])


def test_a_tar_of_nydus_is_the_one_it_is_named_by() -> None:
    image = one_vector("tarfs")
    (record,) = Bootstrap(image.bootstrap).blobs
    assert tar_blob(record, [image.blob_object(record)]).id == record.id
