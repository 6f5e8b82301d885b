"""Checkpoints that are whole, damaged, half written, or no longer wanted."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from worlds import tiny_policy

from recrl.backends.ranks import ALONE
from recrl.errors import RunError, UserError
from recrl.store import checkpoint
from recrl.training.weights import load_weights, weights


def write(stage: Path, step: int, *, best: int = 0) -> Path:
    def save_model(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(f"{step}")

    state = {"at": {"step": step}, "progress": {"best_step": best}}
    tensors = {"model.w": torch.full((3,), float(step)), "model.t": torch.arange(6.0).view(2, 3).t()}
    return checkpoint.write(stage / "checkpoints", step, save_model, tensors.items(), state)


def names(stage: Path) -> list[str]:
    return [path.name for path in checkpoint.steps(stage / "checkpoints")]


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = checkpoint.read(write(tmp_path, 100))
    assert found.state["at"] == {"step": 100}
    assert found.read("model.w")[:].tolist() == [100.0] * 3
    assert torch.equal(found.read("model.t")[:], torch.arange(6.0).view(2, 3).t())
    assert (found.model / "config.json").read_text() == "100"
    assert (tmp_path / "latest").resolve() == found.path.resolve()
    assert not (tmp_path / "latest").readlink().is_absolute()


@pytest.mark.parametrize("name", ["trainer.safetensors", "state.json", "model/config.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    write(tmp_path, 10)
    newest = write(tmp_path, 20)
    if damage == "gone":
        (newest / name).unlink()
    else:
        flip(newest / name)
    with pytest.raises(RunError, match="step-000020"):
        checkpoint.read(newest)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    assert found.path.name == "step-000010"
    assert "step-000020" in caplog.text
    assert "the one before" in caplog.text


def test_no_whole_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "checkpoints") is None
    flip(write(tmp_path, 5) / "state.json")
    assert checkpoint.newest(tmp_path / "checkpoints") is None


def test_a_half_written_folder_is_ignored_and_swept(tmp_path: Path) -> None:
    whole = write(tmp_path, 10)
    half = tmp_path / "checkpoints" / ".step-000020.abcd"
    (half / "model").mkdir(parents=True)
    (half / "trainer.safetensors").write_bytes(b"half")
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    assert found.path == whole
    assert names(tmp_path) == ["step-000010"]
    checkpoint.settle(tmp_path / "checkpoints", found)
    assert not half.exists()
    assert whole.is_dir()


def test_settling_points_latest_at_what_was_found(tmp_path: Path) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20)
    found = checkpoint.read(tmp_path / "checkpoints" / "step-000010")
    checkpoint.settle(tmp_path / "checkpoints", found)
    assert (tmp_path / "latest").resolve() == found.path.resolve()


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    flip(write(tmp_path, 10) / "trainer.safetensors")
    found = checkpoint.read(write(tmp_path, 10))
    assert found.state["at"] == {"step": 10}


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (2, 20, ["step-000020", "step-000040", "step-000050"]),
        (2, 50, ["step-000040", "step-000050"]),
        (1, 10, ["step-000010", "step-000050"]),
        (9, 10, ["step-000010", "step-000020", "step-000030", "step-000040", "step-000050"]),
        (1, -1, ["step-000050"]),
    ],
)
def test_pruning_leaves_the_newest_and_the_best(tmp_path: Path, keep: int, best: int, left: list[str]) -> None:
    for step in (10, 20, 30, 40, 50):
        write(tmp_path, step)
    checkpoint.prune(tmp_path / "checkpoints", keep, best)
    assert names(tmp_path) == left


def test_the_best_is_the_one_that_the_newest_names(tmp_path: Path) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20, best=10)
    assert checkpoint.best(tmp_path).path.name == "step-000010"
    write(tmp_path, 30, best=15)  # not there any more
    assert checkpoint.best(tmp_path).path.name == "step-000030"


def test_a_stage_without_checkpoints_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint below"):
        checkpoint.best(tmp_path)


def test_tensors_are_spread_over_files_of_a_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 30)
    path = write(tmp_path, 1)
    assert sorted(file.name for file in path.glob("*.safetensors")) == ["trainer-1.safetensors", "trainer.safetensors"]
    found = checkpoint.read(path)
    assert found.read("model.w")[:].tolist() == [1.0] * 3
    assert torch.equal(found.read("model.t")[:, 1:], torch.tensor([[3.0], [4.0], [5.0]]))


def test_weights_come_back_into_a_policy() -> None:
    first, second = tiny_policy(), tiny_policy()
    with torch.no_grad():
        for weight in second.parameters():
            weight.zero_()
    kept = dict(weights(first, "average", ALONE))
    load_weights(second, "average", kept.__getitem__)
    for (name, left), (_, right) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_half_one(tmp_path: Path, error: Exception) -> None:
    before = write(tmp_path, 1)

    def save_model(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("written")
        raise error

    with pytest.raises(RunError, match="can't write the checkpoint"):
        checkpoint.write(tmp_path / "checkpoints", 2, save_model, (), {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [before.name]
    assert (tmp_path / "latest").resolve() == before.resolve()
