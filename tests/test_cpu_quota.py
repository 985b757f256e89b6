"""Processors that a process may use, under control groups of both versions; threads that it may start."""

import os
import threading
from pathlib import Path

import pytest

from vpdist.cpu_quota import available_cores, machine_memory, memory_limit, quotas, require_threads

V1, V2 = "cgroup cgroup rw,cpu,cpuacct", "cgroup2 cgroup2 rw"
CPU_V1 = "4:cpu,cpuacct:{group}\n9:cpuset:/elsewhere\n0::/\n"
CPU_V2 = "0::{group}\n"


def process(folder: Path, kind: str, groups: str, top: str = "/") -> Path:
    """A process's folder in /proc, and a mounted hierarchy in folder/groups."""
    described = folder / "proc"
    described.mkdir()
    (described / "mountinfo").write_text(
        "23 1 0:5 / /proc rw,relatime - proc proc rw\n"
        f"31 23 0:29 {top} {folder / 'groups'} rw,nosuid shared:9 - {kind}\n"
        f"32 23 0:30 / {folder / 'cpuset'} rw - cgroup cgroup rw,cpuset\n"
    )
    (described / "cgroup").write_text(groups)
    return described


def write(folder: Path, text: str) -> None:
    """A group's quota and period, in the files of its version."""
    folder.mkdir(parents=True, exist_ok=True)
    quota, period = text.split()
    (folder / "cpu.max").write_text(f"{quota.replace('-1', 'max')} {period}\n")
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(("kind", "groups"), [(V1, CPU_V1), (V2, CPU_V2)], ids=["v1", "v2"])
def test_quotas_of_all_groups_that_a_process_lies_in_count(kind: str, groups: str, tmp_path: Path) -> None:
    here = process(tmp_path, kind, groups.format(group="/pod/container"))
    write(tmp_path / "groups" / "pod" / "container", "350000 100000")
    write(tmp_path / "groups" / "pod", "150000 100000")
    write(tmp_path / "groups" / "other", "10000 100000")
    assert sorted(quotas(here)) == [1.5, 3.5]
    write(tmp_path / "groups" / "pod", "-1 100000")
    assert list(quotas(here)) == [3.5]


@pytest.mark.parametrize(("kind", "groups"), [(V1, CPU_V1), (V2, CPU_V2)], ids=["v1", "v2"])
@pytest.mark.parametrize(("group", "top"), [("/docker/x", "/docker/x"), ("/", "/"), ("/../y", "/"), ("/a", "/b")])
def test_a_container_sees_its_own_group_as_the_top(
    kind: str, groups: str, group: str, top: str, tmp_path: Path
) -> None:
    here = process(tmp_path, kind, groups.format(group=group), top)
    write(tmp_path / "groups", "50000 100000")
    assert list(quotas(here)) == [0.5]
    assert available_cores(here) == 1


@pytest.mark.parametrize("text", ["0 100000", "100000 0", "-5 100000", "many 100000"])
def test_what_is_no_quota_is_none(text: str, tmp_path: Path) -> None:
    here = process(tmp_path, V2, CPU_V2.format(group="/"))
    write(tmp_path / "groups", text)
    assert list(quotas(here)) == []


def test_cores_are_those_of_the_affinity_mask_where_nothing_is_known_of_groups(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "no proc") == len(os.sched_getaffinity(0))


def test_a_quota_above_the_affinity_mask_changes_nothing(tmp_path: Path) -> None:
    here = process(tmp_path, V2, CPU_V2.format(group="/"))
    write(tmp_path / "groups", "102400000 100000")
    assert available_cores(here) == len(os.sched_getaffinity(0))


def test_threads_that_cannot_be_started_are_told_before_a_library_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = set(threading.enumerate()), threading.Thread.start
    require_threads(20)
    left = iter(range(5))

    def start_five(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_five)
    require_threads(1)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        require_threads(20)
    assert set(threading.enumerate()) <= before  # of them, some of another test may have ended meanwhile


MEMORY_V1 = "5:memory:{group}\n4:cpu,cpuacct:/elsewhere\n0::/\n"


@pytest.mark.parametrize(
    ("kind", "groups", "name"),
    [
        (V1.replace("cpu,cpuacct", "memory"), MEMORY_V1, "memory.limit_in_bytes"),
        (V2, CPU_V2, "memory.max"),
    ],
    ids=["v1", "v2"],
)
def test_memory_is_that_of_the_tightest_group(kind: str, groups: str, name: str, tmp_path: Path) -> None:
    here = process(tmp_path, kind, groups.format(group="/pod/container"))
    assert memory_limit(here) is None
    inner, outer = tmp_path / "groups" / "pod" / "container", tmp_path / "groups" / "pod"
    inner.mkdir(parents=True)
    (inner / name).write_text("9223372036854771712\n" if "limit" in name else "max\n")
    assert memory_limit(here) is None
    assert machine_memory(here) == machine_memory(tmp_path / "no proc")
    (outer / name).write_text("4194304\n")
    (inner / name).write_text("8388608\n")
    assert memory_limit(here) == machine_memory(here) == 4194304
