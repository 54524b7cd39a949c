"""Versions on disk: published whole or not at all, and read only when every byte is right."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.weights import (
    MANIFEST,
    POINTER,
    ModelVersion,
    VersionExists,
    WeightsDamaged,
    WeightsError,
    committed,
    describe_plain,
    path_of,
    publish,
    read_manifest,
    verify,
)
from tests.tiny_models import write_tiny_model


def tiny(seed: int = 1) -> Callable[[Path], None]:
    return lambda path: void(write_tiny_model(path, seed=seed, layers=1))


def void(_: object) -> None:
    return None


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return publish(tmp_path, "policy", 3, tiny(), parent=None).path


def test_a_published_version_is_named_by_the_pointer_and_verifies(tmp_path: Path) -> None:
    parent = ModelVersion("sft", 1, "ab" * 32)
    done = publish(tmp_path, "policy", 12, tiny(), parent=parent, extra={"gain": 2.5})
    assert done.path == tmp_path / "policy" / "v000012"
    assert committed(tmp_path, "policy") == (done.version, done.path)
    manifest = verify(done.path, done.version)
    assert (manifest.parent, manifest.extra, manifest.bytes) == (parent, {"gain": 2.5}, done.bytes)
    assert not list((tmp_path / "policy").glob("*tmp*"))


def test_nothing_is_committed_before_the_first_publish(tmp_path: Path) -> None:
    assert committed(tmp_path, "policy") is None


def test_equal_weights_are_an_equal_version_and_publishing_twice_succeeds(tmp_path: Path) -> None:
    first = publish(tmp_path, "policy", 1, tiny(), parent=None)
    again = publish(tmp_path, "policy", 1, tiny(), parent=None)
    assert again.version == first.version
    assert publish(tmp_path, "policy", 2, tiny(), parent=None).version.sha256 != first.version.sha256


def test_other_bytes_under_a_taken_number_are_refused(tmp_path: Path) -> None:
    first = publish(tmp_path, "policy", 1, tiny(seed=1), parent=None)
    with pytest.raises(VersionExists, match="a version never changes"):
        publish(tmp_path, "policy", 1, tiny(seed=2), parent=None)
    assert committed(tmp_path, "policy") == (first.version, first.path)


def test_a_repeat_of_an_old_publish_does_not_move_the_pointer_back(tmp_path: Path) -> None:
    publish(tmp_path, "policy", 1, tiny(1), parent=None)
    second = publish(tmp_path, "policy", 2, tiny(2), parent=None)
    publish(tmp_path, "policy", 1, tiny(1), parent=None)
    assert committed(tmp_path, "policy") == (second.version, second.path)


def test_a_write_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        write_tiny_model(path, layers=1)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, "policy", 1, fails, parent=None)
    assert list((tmp_path / "policy").iterdir()) == []


def test_weights_that_only_pickle_could_read_are_never_published_nor_read(tmp_path: Path) -> None:
    def pickled(path: Path) -> None:
        (path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")

    with pytest.raises(WeightsError, match="pytorch_model.bin: is a pickle"):
        publish(tmp_path, "policy", 1, pickled, parent=None)
    (tmp_path / "plain").mkdir()
    pickled(tmp_path / "plain")
    with pytest.raises(WeightsError, match="is a pickle"):
        describe_plain(tmp_path / "plain")


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "file", "says"),
    [
        (flip_a_bit, "model.safetensors", "is damaged"),
        (cut_in_half, "model.safetensors", "half-written"),
        (lambda p: (p / "config.json").unlink(), "config.json", "missing from the directory"),
        (lambda p: (p / "stray.json").write_text("{}"), "stray.json", "is not in the manifest"),
        (lambda p: (p / MANIFEST).unlink(), MANIFEST, "not a published version"),
        (lambda p: (p / MANIFEST).write_text("{"), MANIFEST, "is not a manifest"),
        (lambda p: (p / MANIFEST).write_text('{"model": 1}'), MANIFEST, "is not a manifest"),
        (lambda p: (p / MANIFEST).write_text('{"files": {"a": 3}}'), MANIFEST, "is not a manifest"),
    ],
)
def test_damage_is_refused_by_the_name_of_the_file(
    version: Path, damage: Callable[[Path], None], file: str, says: str
) -> None:
    damage(version)
    with pytest.raises(WeightsError, match=says) as caught:
        verify(version)
    assert caught.value.path == version / file


def test_a_manifest_that_was_changed_is_not_the_expected_version(version: Path) -> None:
    expected = read_manifest(version).version
    record = json.loads((version / MANIFEST).read_bytes())
    record["extra"] = {"gain": 9.0}
    (version / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="expected policy@3"):
        verify(version, expected)


def test_a_broken_pointer_is_an_error_and_not_an_absence(version: Path) -> None:
    (version.parent / POINTER).write_text("{")
    with pytest.raises(WeightsError, match="is not a version pointer"):
        committed(version.parent.parent, "policy")


def test_a_plain_directory_is_number_0_and_its_name_depends_on_its_bytes_alone(tmp_path: Path) -> None:
    one = describe_plain(write_tiny_model(tmp_path / "a" / "llama", seed=1))
    two = describe_plain(write_tiny_model(tmp_path / "b" / "llama", seed=1))
    other = describe_plain(write_tiny_model(tmp_path / "c" / "llama", seed=2))
    assert one.version == two.version
    assert (one.model, one.number) == ("llama", 0)
    assert other.sha256 != one.sha256


def test_a_plain_directory_with_a_manifest_is_verified(version: Path) -> None:
    assert describe_plain(version).number == 3
    flip_a_bit(version)
    with pytest.raises(WeightsError, match="is damaged"):
        describe_plain(version)


def test_a_plain_directory_with_half_a_weights_file_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "llama")
    cut_in_half(path)
    with pytest.raises(WeightsError, match="half-written"):
        describe_plain(path)


def test_a_name_cannot_leave_the_models_directory(tmp_path: Path) -> None:
    for name in ("../evil", "a/b", "", ".hidden"):
        with pytest.raises(WeightsError, match="letters, digits"):
            publish(tmp_path / "models", name, 1, tiny(), parent=None)


def test_a_uri_is_an_absolute_path_or_a_file_uri() -> None:
    assert path_of("/a/b c") == Path("/a/b c")
    assert path_of("file:///a/b%20c") == Path("/a/b c")
    for uri in ("", "relative/path", "https://host/a", "file://host/a", "s3://bucket/a"):
        with pytest.raises(WeightsError, match="neither an absolute path nor a file: URI"):
            path_of(uri)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, lambda p: void((p / MANIFEST).write_text("{"))])
def test_publishing_a_damaged_version_again_heals_it(version: Path, damage: Callable[[Path], None]) -> None:
    expected, content = read_manifest(version).version, (version / "model.safetensors").read_bytes()
    damage(version)
    with pytest.raises(WeightsDamaged):
        verify(version, expected)
    healed = publish(version.parent.parent, "policy", 3, tiny(), parent=None)
    assert healed.version == expected and verify(version, expected).version == expected
    assert (version / "model.safetensors").read_bytes() == content
    assert not list(version.parent.glob("*tmp*"))


def test_a_damaged_version_of_other_bytes_is_not_replaced(version: Path) -> None:
    flip_a_bit(version)
    damaged = (version / "model.safetensors").read_bytes()
    with pytest.raises(VersionExists):
        publish(version.parent.parent, "policy", 3, tiny(seed=2), parent=None)
    assert (version / "model.safetensors").read_bytes() == damaged


def test_a_damaged_pointer_is_written_anew_by_the_next_version(version: Path) -> None:
    (version.parent / POINTER).write_text("{")
    publish(version.parent.parent, "policy", 4, tiny(seed=2), parent=None)
    found = committed(version.parent.parent, "policy")
    assert found is not None and found[0].number == 4
