"""Artifacts are moved between stores: all of them, none twice, whatever their names, wherever a run is cut off."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from manifest import Manifest
from mover import Mover
from store_s3 import S3
from stores import ChangedError, Item, ObjectError, open_store
from tests.kills import kill_in_the_middle
from tests.moving import ODD_NAMES, REGION, Bucket, Move, Result, files_of, fill

PART = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(endpoint: str) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(endpoint, f"b{abs(hash(request.node.name))}"[:40])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (directory := tmp_path / "source").mkdir()
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def between(source: Path, target: Path, tmp_path: Path) -> Move:
    return Move(str(source), str(target), tmp_path / "state")


@pytest.fixture
def to_s3(source: Path, bucket: Bucket, environment: dict[str, str], tmp_path: Path) -> Move:
    return Move(str(source), f"s3://{bucket.name}/some/prefix", tmp_path / "state", {"to": environment})


@pytest.fixture
def from_s3(target: Path, bucket: Bucket, environment: dict[str, str], tmp_path: Path) -> Move:
    return Move(f"s3://{bucket.name}/some/prefix", str(target), tmp_path / "state", {"from": environment})


def start_over(move: Move, bucket: Bucket) -> None:
    """Remove what a move to a bucket has written, there and in its state."""
    bucket.empty()
    shutil.rmtree(move.state)


def well(result: Result) -> dict[str, Any]:
    assert result.status == 0, result
    return result.report


# Whatever the names are


def test_a_directory_is_moved_to_another(between: Move, source: Path, target: Path) -> None:
    # A line break is in names of files at most: no store for tests takes it.
    content = fill(source, [*ODD_NAMES, "line\nbreak"])
    (source / "an empty directory").mkdir()
    report = well(between("copy"))
    assert files_of(target) == content
    assert report["copied"] == {"objects": len(content), "bytes": sum(map(len, content.values()))}
    assert report["settled"]
    assert well(between("verify"))["same"]["objects"] == len(content)
    assert well(between("copy"))["copied"]["objects"] == 0
    # For the server alone.
    assert (target / "1/run/artifacts/plain.txt").stat().st_mode & 0o077 == 0


def test_a_directory_is_moved_to_s3(to_s3: Move, source: Path, bucket: Bucket) -> None:
    content = fill(source) | {"large": os.urandom(2 * PART + 12345), "one part": os.urandom(PART)}
    (source / "large").write_bytes(content["large"])
    (source / "one part").write_bytes(content["one part"])
    report = well(to_s3("copy"))
    assert {key: bucket.get(f"some/prefix/{key}") for key in content} == content
    assert sorted(bucket.keys()) == sorted(f"some/prefix/{key}" for key in content)
    # S3 makes no SHA-256 of all of an object that it takes in parts.
    assert report["verified_by"] == {"checksum of the store": len(content) - 1, "reading back": 1}
    verified = well(to_s3("verify"))
    assert verified["verified_by"] == {"version of the store": len(content)}
    assert verified["remove_source_by"].startswith("find /")
    assert well(to_s3("verify", "--read-back"))["verified_by"] == {"reading back": len(content)}


def test_s3_is_moved_to_a_directory(from_s3: Move, target: Path, bucket: Bucket, tmp_path: Path) -> None:
    content = fill(tmp_path / "content")
    for key, data in content.items():
        bucket.put(f"some/prefix/{key}", data)
    bucket.put("some/prefix/1/run/", b"")  # as consoles mark directories
    bucket.put("some/prefix2/another", b"not below the prefix")
    report = well(from_s3("copy"))
    assert files_of(target) == content
    assert report["copied"]["objects"] == len(content)
    assert well(from_s3("verify"))["complete"]


def test_s3_is_moved_to_s3_with_other_credentials(bucket: Bucket, environment: dict[str, str], tmp_path: Path) -> None:
    bucket.put("old/a", b"a")
    second = environment | {"AWS_ACCESS_KEY_ID": "another"}
    move = Move(
        f"s3://{bucket.name}/old", f"s3://{bucket.name}/new", tmp_path / "s", {"from": environment, "to": second}
    )
    well(move("copy"))
    assert bucket.get("new/a") == b"a"


def test_links_are_followed_but_not_in_circles(between: Move, source: Path, target: Path, tmp_path: Path) -> None:
    fill(tmp_path / "another disk", ["f"])
    (source / "2").symlink_to(tmp_path / "another disk")
    (source / "circle").symlink_to(source)
    (source / "nowhere").symlink_to(tmp_path / "does not exist")
    well(between("copy"))
    assert list(files_of(target)) == ["2/f"]


# Plans


def test_a_plan_counts_and_changes_nothing(to_s3: Move, source: Path, bucket: Bucket) -> None:
    content = fill(source)
    (source / "new").write_bytes(b"12345")
    before = well(to_s3("plan"))
    assert before["to_copy"] == {"objects": len(content) + 1, "bytes": 5 + sum(map(len, content.values()))}
    assert bucket.keys() == []
    assert not to_s3.state.exists()
    (source / "new").unlink()
    well(to_s3("copy"))
    (source / "new").write_bytes(b"12345")
    after = well(to_s3("plan"))
    assert after["to_copy"] == {"objects": 1, "bytes": 5}
    assert after["there"]["objects"] == len(content)


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ("/srv/a", "/srv/a/", "are the same store"),
        ("/srv/a", "/srv/a/b", "lie inside each other"),
        ("s3://bucket/a/b", "s3://bucket/a", "lie inside each other"),
        ("s3://bucket", "s3://bucket/a", "lie inside each other"),
        ("s3://Bucket", "/srv/a", "is not a store; it takes an absolute directory"),
        ("s3://bucket//a", "/srv/a", "is not a store"),
        ("s3://bucket/../a", "/srv/a", "is not a store"),
        ("relative/path", "/srv/a", "is not a store"),
        ("wasbs://c@account.example.com", "/srv/a", "is not a store"),
        ("file:///srv/b", "/srv/a", "is not a store"),
        ("gs://", "/srv/a", "is not a store"),
        ("/", "/srv/a", "is not a store"),
    ],
)
def test_places_that_cannot_be_are_refused(first: str, second: str, error: str, tmp_path: Path) -> None:
    settings = {"AWS_DEFAULT_REGION": REGION}
    result = Move(first, second, tmp_path / "state", {"from": settings, "to": settings})("copy")
    assert result.status == 2
    assert error in result.error
    assert not (tmp_path / "state").exists()


def test_neighbours_of_similar_names_are_two_places(
    bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    bucket.put("a/key", b"x")
    both = {"from": environment, "to": environment}
    well(Move(f"s3://{bucket.name}/a", f"s3://{bucket.name}/a2", tmp_path / "s", both)("copy"))
    assert bucket.get("a2/key") == b"x"


# Cut off


def test_what_was_cut_off_goes_on_and_writes_nothing_twice(to_s3: Move, source: Path, bucket: Bucket) -> None:
    content = fill(source, [f"{number % 7}/run {number}" for number in range(400)])
    kill_in_the_middle(
        lambda: to_s3.start("copy", "--threads", "3"),
        lambda: len(bucket.keys()) >= 25,
        lambda: start_over(to_s3, bucket),
    )
    # What was on its way when it was cut off arrives yet.
    there = -1
    while there != (there := len(bucket.keys())):
        time.sleep(0.5)
    assert there < len(content)
    report = well(to_s3("copy"))
    assert report["copied"]["objects"] == len(content) - there, report
    assert report["found_there"]["objects"] <= 6, "but for what was on its way, all is noted"
    assert sorted(bucket.writes()) == sorted(f"some/prefix/{key}" for key in content)
    assert well(to_s3("verify"))["same"]["objects"] == len(content)


def test_what_was_cut_off_before_it_was_noted_is_found_and_not_written_again(
    to_s3: Move, source: Path, bucket: Bucket
) -> None:
    content = fill(source)
    well(to_s3("copy"))
    for manifest in to_s3.state.rglob("*.sqlite*"):
        manifest.unlink()
    report = well(to_s3("copy"))
    assert report["found_there"]["objects"] == len(content)
    assert len(bucket.writes()) == len(content)


def test_a_cut_off_upload_leaves_no_parts_and_nothing_under_its_key(to_s3: Move, source: Path, bucket: Bucket) -> None:
    (source / "large").write_bytes(data := os.urandom(10 * PART))
    kill_in_the_middle(lambda: to_s3.start("copy"), lambda: bool(bucket.parts()), lambda: start_over(to_s3, bucket))
    assert bucket.keys() == []
    well(to_s3("copy"))
    assert bucket.uploads() == []
    assert bucket.get("some/prefix/large") == data
    assert len(bucket.writes()) == 1


def test_a_file_is_whole_or_not_there(from_s3: Move, bucket: Bucket, target: Path) -> None:
    bucket.put("some/prefix/large", data := os.urandom(10 * PART))
    kill_in_the_middle(
        lambda: from_s3.start("copy"),
        lambda: any((target / ".mlflow-move").glob("*")),
        lambda: (target / "large").unlink(),
    )
    assert not (target / "large").exists()
    well(from_s3("copy"))
    assert files_of(target) == {"large": data}


def test_a_second_run_waits_for_the_first(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, [f"run {number}" for number in range(150)])
    first = to_s3.start("copy")
    second = to_s3.start("copy")
    for process in (first, second):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(bucket.writes()) == 150


# Changed meanwhile


def test_what_changed_or_came_since_is_copied(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, ["a", "b"])
    well(to_s3("copy"))
    (source / "a").write_bytes(b"another content")
    (source / "c").write_bytes(b"new")
    result = to_s3("verify")
    assert result.status == 1
    assert result.report["outdated"] == {"objects": 1, "keys": ["a"]}
    assert result.report["missing"] == {"objects": 1, "keys": ["c"]}
    assert "1 missing, 1 outdated" in result.error
    assert well(to_s3("copy"))["copied"]["objects"] == 2
    assert bucket.get("some/prefix/a") == b"another content"
    assert well(to_s3("verify"))["complete"]


def test_passes_go_on_until_one_finds_nothing_new(between: Move, source: Path, target: Path) -> None:
    """A file that grows while it is read, and others that come and go, are no errors."""
    fill(source, [f"run {number}" for number in range(200)])
    process = between.start("copy")
    number = 0
    while process.poll() is None and number < 300:
        (source / f"late {number}").write_bytes(b"late")
        with (source / "run 199").open("ab") as file:
            file.write(b"more")
        (source / f"run {number % 100}").unlink(missing_ok=True)
        number += 1
        time.sleep(0.002)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    well(between("copy"))
    copied = files_of(target)
    assert {name: copied.get(name) for name in files_of(source)} == files_of(source)


def test_a_corrupted_object_is_found_and_mended(to_s3: Move, source: Path, bucket: Bucket) -> None:
    content = fill(source, ["a", "b", "c"])
    well(to_s3("copy"))
    bucket.put("some/prefix/a", bytes(len(content["a"])))
    bucket.delete("some/prefix/b")
    result = to_s3("verify")
    assert result.status == 1
    assert result.report["mismatches"] == {"objects": 1, "keys": ["a"]}
    assert result.report["missing"] == {"objects": 1, "keys": ["b"]}
    assert result.error.endswith("1 missing, 1 mismatches; such as b.")
    assert well(to_s3("copy"))["copied"]["objects"] == 2
    assert well(to_s3("verify"))["complete"]


def test_a_corrupted_file_is_found_though_its_times_are_the_same(between: Move, source: Path, target: Path) -> None:
    content = fill(source, ["a", "b"])
    well(between("copy"))
    times = (target / "a").stat()
    (target / "a").write_bytes(bytes(len(content["a"])))
    os.utime(target / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    result = between("verify", "--final")
    assert (result.status, result.report["mismatches"]["keys"]) == (1, ["a"])
    # Until it is mended.
    assert between("verify").report["outdated"]["keys"] == ["a"]
    well(between("copy"))
    assert files_of(target) == content


def test_foreign_objects_of_the_same_key_are_not_overwritten(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, ["a", "b"])
    bucket.put("some/prefix/a", b"somebody else's")
    bucket.put("some/prefix/z", b"somebody else's")
    result = to_s3("copy")
    assert result.status == 1
    assert "another object of this key" in result.error
    assert bucket.get("some/prefix/a") == b"somebody else's"
    assert result.report["copied"]["objects"] == 1
    assert to_s3("verify").report["foreign"]["keys"] == ["z"]


# After the server has switched to the target


def test_what_the_server_wrote_at_the_target_is_kept(to_s3: Move, source: Path, bucket: Bucket) -> None:
    content = fill(source, ["untouched", "overwritten", "removed", "late", "by both"])
    (source / "late").unlink()
    (source / "by both").unlink()
    well(to_s3("copy"))
    (source / "late").write_bytes(content["late"])  # by the former colour, with its last breath
    (source / "by both").write_bytes(content["by both"])
    time.sleep(1)  # S3 tells times in seconds
    bucket.put("some/prefix/overwritten", b"by the server")
    bucket.put("some/prefix/by both", b"by the server")
    bucket.put("some/prefix/new", b"by the server")
    bucket.delete("some/prefix/removed")
    report = well(to_s3("copy", "--final"))
    assert report["copied"]["objects"] == 1
    assert report["kept"]["objects"] == 3
    assert bucket.get("some/prefix/late") == content["late"]
    assert bucket.get("some/prefix/overwritten") == bucket.get("some/prefix/by both") == b"by the server"
    assert "some/prefix/removed" not in set(bucket.keys())
    verified = well(to_s3("verify", "--final"))
    assert sorted(verified["written_since"]["keys"]) == ["by both", "overwritten"]
    assert verified["removed_since"]["keys"] == ["removed"]
    assert verified["foreign"]["keys"] == ["new"]


def test_what_was_removed_at_the_source_is_removed_only_where_this_move_wrote_it(
    to_s3: Move, source: Path, bucket: Bucket
) -> None:
    content = fill(source, [f"{number}" for number in range(12)])
    bucket.put("some/prefix/0", content["0"])  # was there
    well(to_s3("copy"))
    for name in ("0", "1", "2"):
        (source / name).unlink()
    bucket.put("some/prefix/2", b"by the server")
    assert well(to_s3("copy"))["removed"]["objects"] == 0, "the source may be back at any time before the switch"
    assert well(to_s3("copy", "--final"))["removed"]["keys"] == ["1"]
    assert {"some/prefix/0", "some/prefix/2"} < set(bucket.keys())


def test_a_source_that_was_cleared_clears_no_target(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, [f"{number}" for number in range(20)])
    well(to_s3("copy"))
    for path in list(source.iterdir())[3:]:
        path.unlink()
    assert well(to_s3("copy", "--final"))["left"]["objects"] == 17
    assert len(bucket.keys()) == 20


def test_an_empty_source_clears_not_even_a_small_target(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, ["a", "b"])
    well(to_s3("copy"))
    (source / "a").unlink()
    (source / "b").unlink()
    assert well(to_s3("copy", "--final"))["left"]["keys"] == ["a", "b"]


def test_once_it_is_complete_nothing_is_removed_anymore(to_s3: Move, source: Path, bucket: Bucket) -> None:
    fill(source, ["a", "b"])
    well(to_s3("copy", "--final"))
    well(to_s3("verify", "--final"))
    (source / "a").unlink()
    assert well(to_s3("copy", "--final"))["left"]["keys"] == ["a"]
    assert len(bucket.keys()) == 2


def test_the_way_back_copies_what_has_changed_since(
    to_s3: Move, source: Path, bucket: Bucket, environment: dict[str, str]
) -> None:
    content = fill(source, ["untouched", "overwritten", "removed"])
    well(to_s3("copy"))
    well(to_s3("verify", "--final"))
    bucket.put("some/prefix/overwritten", b"by the server")
    bucket.put("some/prefix/new", b"by the server")
    bucket.delete("some/prefix/removed")
    back = Move(to_s3.target, to_s3.source, to_s3.state, {"from": environment})
    plan = well(back("plan"))
    assert (plan["to_copy"]["objects"], plan["to_compare"]["objects"], plan["there"]["objects"]) == (2, 0, 1)
    report = well(back("copy"))
    assert (report["copied"]["objects"], report["found_there"]["objects"]) == (2, 0)
    well(back("verify"))
    well(back("copy", "--final"))
    assert files_of(source) == content | {"overwritten": b"by the server", "new": b"by the server"}
    # And forth again.
    (source / "untouched").write_bytes(b"by the former server")
    well(to_s3("copy"))
    assert well(to_s3("verify"))["complete"]
    assert bucket.get("some/prefix/untouched") == b"by the former server"


def test_going_back_from_a_move_that_was_cut_off_overwrites_nothing_newer(
    to_s3: Move, source: Path, bucket: Bucket, environment: dict[str, str]
) -> None:
    content = fill(source, ["untouched", "written late"])
    well(to_s3("copy"))
    # By the former colour, before the switch; and then nothing was copied anymore.
    (source / "written late").write_bytes(b"by the server")
    back = Move(to_s3.target, to_s3.source, to_s3.state, {"from": environment})
    well(back("copy"))
    assert files_of(source) == content | {"written late": b"by the server"}


def note(move: Move, statement: str) -> None:
    """Make the manifest of a move what a run that was cut off would have left."""
    (path,) = move.state.rglob("manifest.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute(statement)


def test_what_the_server_wrote_where_a_run_was_about_to_write_is_kept(
    to_s3: Move, source: Path, bucket: Bucket
) -> None:
    fill(source, ["cut off", "another"])
    well(to_s3("copy"))
    note(to_s3, "UPDATE moved SET from_version = '', to_version = '' WHERE key = CAST('cut off' AS BLOB)")
    bucket.put("some/prefix/cut off", b"by the server")
    # A directory knows fractions of the second in which both were written, the bucket does not.
    second = int(bucket.written("some/prefix/cut off"))
    os.utime(source / "cut off", (second, second + 0.9))
    report = well(to_s3("copy", "--final"))
    assert (report["copied"]["objects"], report["kept"]["objects"]) == (0, 1)
    assert report["settled"]
    assert bucket.get("some/prefix/cut off") == b"by the server"
    assert well(to_s3("verify", "--final"))["written_since"]["keys"] == ["cut off"]
    # Nor the next time.
    assert well(to_s3("copy", "--final"))["copied"]["objects"] == 0


def test_an_absent_object_is_no_refusal_where_no_more_than_a_prefix_may_be_listed(
    bucket: Bucket, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"s3://{bucket.name}/some/prefix", environment)
    assert isinstance(store, S3)
    bucket.put("some/prefix/there/too", b"another, of which the key is the beginning")

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

    monkeypatch.setattr(store.client, "head_object", refuse)
    monkeypatch.setattr(store.client, "get_object", refuse)
    assert store.find("there") is None
    with pytest.raises(ChangedError):
        store.read(Item("there", 1, "version", 0), 0, 1)
    bucket.put("some/prefix/there", b"refused")
    with pytest.raises(ObjectError, match="s3:GetObject"):
        store.find("there")


def test_what_is_written_while_it_is_to_be_removed_stays(
    bucket: Bucket, environment: dict[str, str], source: Path, to_s3: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source, ["kept", "gone"])
    well(to_s3("copy"))
    (source / "gone").unlink()
    target = open_store(to_s3.target, environment)
    (path,) = to_s3.state.iterdir()
    mover = Mover(open_store(to_s3.source, {}), target, Manifest(path), final=True)
    listed = target.items

    def then_written() -> Iterator[Item]:
        yield from list(listed())
        bucket.put("some/prefix/gone", b"by the server")

    monkeypatch.setattr(target, "items", then_written)
    report = mover.copy(1)
    assert (report["removed"]["objects"], report["left"]["keys"]) == (0, ["gone"])
    assert bucket.get("some/prefix/gone") == b"by the server"


def test_a_plan_needs_no_store_to_move_to(source: Path, environment: dict[str, str], tmp_path: Path) -> None:
    content = fill(source)
    missing = Move(str(source), "s3://not-made-yet/prefix", tmp_path / "state", {"to": environment})
    assert well(missing("plan"))["to_copy"]["objects"] == len(content)
    assert "there is no bucket not-made-yet" in missing("copy").error
    missing = Move("s3://not-made-yet/prefix", str(source), tmp_path / "state", {"from": environment})
    assert "there is no bucket not-made-yet" in missing("plan").error


# Errors


def test_errors_are_one_sentence(
    source: Path, target: Path, tmp_path: Path, environment: dict[str, str], bucket: Bucket
) -> None:
    fill(source, ["a"])
    missing = Move(str(source), "s3://no-such-bucket-here", tmp_path / "s", {"to": environment})("copy")
    assert missing.status == 1
    assert missing.error == "The store s3://no-such-bucket-here does not exist: there is no bucket no-such-bucket-here."
    nowhere = Move("/does/not/exist", str(target), tmp_path / "s")("copy")
    assert nowhere.status == 1
    assert nowhere.error.startswith("The directory /does/not/exist does not exist")
    away = environment | {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    unreachable = Move(f"s3://{bucket.name}", str(target), tmp_path / "s", {"from": away})("plan")
    assert unreachable.status == 1
    assert "failed to list: Could not connect" in unreachable.error
    anonymous = {key: value for key, value in environment.items() if "KEY" not in key}
    refused = Move(str(source), f"s3://{bucket.name}", tmp_path / "s", {"to": anonymous})("copy")
    assert refused.status == 1
    assert "Unable to locate credentials" in refused.error


def test_a_key_that_cannot_be_a_file_fails_alone(from_s3: Move, bucket: Bucket, target: Path) -> None:
    bucket.put("some/prefix/a", b"file")
    bucket.put("some/prefix/a/b", b"cannot be below a file")
    bucket.put("some/prefix/c//d", b"an empty part")
    bucket.put("some/prefix/" + "n" * 300, b"too long")
    bucket.put("some/prefix/e", b"well")
    result = from_s3("copy", "--threads", "1")
    assert result.status == 1
    assert result.report["failed"]["objects"] == 3
    assert files_of(target) == {"a": b"file", "e": b"well"}


def test_a_file_that_may_not_be_read_is_named(between: Move, source: Path) -> None:
    fill(source, ["a"])
    (source / "link to a device").symlink_to("/dev/zero")  # no file, and so no artifact
    assert well(between("copy"))["copied"]["objects"] == 1


def test_memory_does_not_grow_with_the_object(
    to_s3: Move, source: Path, bucket: Bucket, target: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    size = 160 * 1024 * 1024
    block = os.urandom(1024 * 1024)
    with (source / "large").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    up = well(to_s3("copy"))["peak_memory_mb"]
    back = Move(f"s3://{bucket.name}/some/prefix", str(target), tmp_path / "back", {"from": environment})
    down = well(back("copy"))["peak_memory_mb"]
    assert (target / "large").stat().st_size == size
    print(f"peak memory for one object of {size >> 20} MB: {up} MB up, {down} MB down")
    assert max(up, down) < 120
