"""Manifests: what is read, which faults are named, and that the shares of all jobs are the whole."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vpdist.errors import InputError, UsageError
from vpdist.option_declarations import parsed_shard
from vpdist.sequences.manifest import read_manifest, shard_bounds, shard_of


def written(folder: Path, text: str) -> Path:
    path = folder / "manifest.tsv"
    path.write_text(text)
    return path


def test_a_manifest_names_files_beside_itself_and_urls_in_its_order(tmp_path: Path) -> None:
    text = "sample\tpath\tsize\tdate\trecords\r\nA\treads/a.fa\t12\tx\t3\r\n\r\nNA\ts3://bucket/b.fa.zst\t\ty\tNA\r\n"
    manifest = read_manifest(written(tmp_path, text))
    first, second = manifest.entries
    assert (first.path, first.location) == ("reads/a.fa", str(tmp_path / "reads/a.fa"))
    assert (first.sample, first.size, first.records, first.line) == ("A", 12, 3, 2)
    assert (second.location, second.sample, second.size, second.records) == ("s3://bucket/b.fa.zst", "", None, None)
    assert second.is_url
    assert manifest.samples
    assert manifest.n_objects == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: a manifest begins with a header that names the column `path`"),
        ("a.fa\nb.fa\n", "line 1: a manifest begins with a header"),
        ("path\tsize\tsize\na\t1\t1\n", "line 1: names the column `size` twice"),
        ("path\n", "manifest.tsv: names no files"),
        ("path\tsize\na.fa\n", "line 2: has 1 cells, the header 2"),
        ("path\tsize\n\t3\n", "line 2: names no file"),
        ("path\na.fa\nb.fa\n./a.fa\n", "line 4: ./a.fa is on line 2 as well"),
        ("path\na b.fa\na\u00a0b.fa\n", "line 3: a\u00a0b.fa is on line 2 as well"),  # tables show both alike
        ("path\tsize\na.fa\t1e6\n", "line 2: size is '1e6', not a number"),
        ("path\trecords\na.fa\t-1\n", "line 2: records is '-1', not a number"),
    ],
)
def test_a_fault_of_a_manifest_is_told_with_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=r"manifest\.tsv") as caught:
        read_manifest(path)
    assert told in str(caught.value)


def test_a_manifest_that_is_not_there_or_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="cannot be read: is not a regular file"):
        read_manifest(Path(os.devnull))
    (tmp_path / "rubbish.tsv").write_bytes(b"path\na.fa\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 3: is not UTF-8"):
        read_manifest(tmp_path / "rubbish.tsv")


@pytest.mark.parametrize("text", ["", "3", "0/7", "8/7", "1/0", "a/b", "-1/7", "1/7/2", "1/99999999999"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give i/n"):
        parsed_shard(text)


def test_the_shares_of_all_jobs_are_the_manifest_once_and_in_order_and_no_larger_than_promised() -> None:
    generator = np.random.default_rng(5)
    for n_objects, n in [(1, 1), (3, 7), (100, 7), (1000, 1000), (1000, 13)]:
        size = generator.integers(0, 1_000, n_objects)
        bounds = shard_bounds(size, n)
        assert (bounds[0], bounds[-1], len(bounds)) == (0, n_objects, n + 1)
        assert (np.diff(bounds) >= 0).all()
        shares = [int((size[a:b] + 1).sum()) for a, b in pairwise(bounds)]
        assert max(shares) <= (size + 1).sum() / n + size.max() + 1


def test_files_are_measured_where_the_manifest_does_not_say_and_urls_are_refused(tmp_path: Path) -> None:
    for name, size in (("a", 1000), ("b", 10), ("c", 990)):
        (tmp_path / name).write_bytes(b"x" * size)
    manifest = read_manifest(written(tmp_path, "path\na\nb\nc\nmissing\n"))
    shares = [shard_of(manifest, number, 2) for number in (1, 2)]
    assert [[entry.path for entry in share.entries] for share in shares] == [["a"], ["b", "c", "missing"]]
    assert shares[1].first == 1
    assert shares[0].digest == shares[1].digest == manifest.digest
    with pytest.raises(InputError, match=r"line 2: https://host/a.fa has no size, which --shard needs of a URL"):
        shard_of(read_manifest(written(tmp_path, "path\nhttps://host/a.fa\n")), 1, 2)


def test_a_url_has_no_secrets_in_its_name_and_must_be_one_that_can_be_read(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, "path\nhttps://me:pw@host/a.fa?X-Amz-Signature=1&part=2\n"))
    assert manifest.entries[0].path == "https://host/a.fa?part=2"
    assert manifest.entries[0].location == "https://me:pw@host/a.fa?X-Amz-Signature=1&part=2"
    with pytest.raises(InputError, match=r"line 2: ftp://host/a.fa: vpdist knows s3://"):
        read_manifest(written(tmp_path, "path\nftp://host/a.fa\n"))
