from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recrl.comparison.records import Line, is_finished, over_seeds, read_record
from recrl.errors import DataError

STATUS = {"state": "finished", "reason": "all steps done", "best_step": 2, "best_value": 0.3, "seconds": 9.0}


def row(step: int, **more: float) -> dict[str, float]:
    return {
        "step": step,
        "rollout/responses": 8.0 * step,
        "timing_s/step": 2.0,
        "tokens/actor_effective": 10.0,
        "signal/all_zero_ratio": step / 10,
        "signal/single_hit_ratio": 0.5,
        "signal/trainable_ratio": 0.25,
    } | more


def write(folder: Path, rows: list[dict[str, float]], status: dict | None = STATUS) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


def test_costs_are_those_spent_by_the_time_of_a_validation(tmp_path):
    rows = [
        {"step": 0, "valid/ndcg@10": 0.1, "tokens/actor_effective": 0.0},
        row(1, **{"actor/optimizer_steps": 4.0}),
        row(2, **{"valid/ndcg@10": 0.3}),  # a step without an active row takes none
        row(3, **{"actor/optimizer_steps": 4.0}),
        row(4, **{"actor/optimizer_steps": 2.0, "valid/ndcg@10": 0.2}),
    ]
    found = read_record(write(tmp_path / "rl", rows), "recast", 1)
    assert found.ndcg.tolist() == [0.1, 0.3, 0.2]
    assert found.responses.tolist() == [0, 24, 80]
    assert found.optimizer_steps.tolist() == [0, 4, 10]
    assert (found.actor_tokens, found.train_seconds, found.seconds, found.best) == (40, 8, 9, 0.3)
    assert found.shares["all_zero"].x.tolist() == [8, 24, 48, 80]
    assert found.shares["all_zero"].y.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_shares_of_a_long_run_are_means_over_twentieths(tmp_path):
    rows = [{"step": 0, "valid/ndcg@10": 0.1}, *(row(step) for step in range(1, 61))]
    shares = read_record(write(tmp_path / "rl", rows), "recast", 0).shares["all_zero"]
    assert len(shares.x) == 20
    assert shares.y[0] == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert shares.x[0] == pytest.approx((8 + 24 + 48) / 3)


def test_a_run_counts_as_finished_only_where_it_says_so(tmp_path):
    assert not is_finished(tmp_path)
    assert not is_finished(write(tmp_path / "a", [], {"state": "running"}))
    assert not is_finished(write(tmp_path / "b", [], {"state": "failed", "reason": "disk full"}))
    assert is_finished(write(tmp_path / "c", []))
    with pytest.raises(DataError, match=r"status.json is broken"):
        is_finished(write(tmp_path / "d", [], {"state": "no such state"}))


def test_what_lacks_a_runs_metrics_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a finished run") as found:
        read_record(write(tmp_path / "rl", [{"step": 0, "valid/ndcg@10": 0.1}]), "recast", 0)
    assert "rollout/responses" in str(found.value)


def test_seeds_that_were_measured_at_other_places_are_read_between_their_values():
    band = over_seeds(
        [Line(np.array([0.0, 10, 20]), np.array([0.0, 1, 2])), Line(np.array([0.0, 15]), np.array([2.0, 5]))]
    )
    assert band.x.tolist() == [0, 10, 15]  # the second one has ended
    assert band.mean.tolist() == pytest.approx([1, 2.5, 3.25])
    assert band.low.tolist() == pytest.approx([0, 1, 1.5])
    assert band.high.tolist() == pytest.approx([2, 4, 5])
