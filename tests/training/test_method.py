"""Any objective composes with any signal and rollout, or is refused with the reason; a step of each."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from runs import run_config

from recrl.errors import ConfigError
from recrl.method import Method
from recrl.objectives import OBJECTIVES
from recrl.rollout import ROLLOUTS
from recrl.signals import SIGNALS
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl

SLATES = {"beam": 2, "sample": 2}
"""Rollouts of slates besides those of single items."""
WAYS = [(kind, 1) for kind in ROLLOUTS] + list(SLATES.items())


def section(rollout: str, slate: int, signal: str, objective: str) -> dict[str, Any]:
    return {
        "mini_batches": 2,
        "prompts_per_step": 8,
        "rollout": {"kind": rollout, "group_size": 4, "slate_size": slate},
        "rewards": [{"kind": "hit"}, {"kind": "sid_level"}],
        "signal": {"kind": signal},
        "objective": {"kind": objective},
    }


@pytest.fixture(scope="module")
def rl(world: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Rl:
    """A run with a reference, whose method every test changes."""
    options = section("beam", 1, "group_zscore", "grpo") | {"init": str(trained)}
    options["objective"] = {"kind": "grpo", "kl_beta": 0.1}
    config = run_config(world, tmp_path_factory.mktemp("methods"), rl=options)
    return Rl(config, StageFolder(config.folder / "rl"))


@pytest.mark.parametrize(("rollout", "slate"), WAYS, ids=lambda value: str(value))
@pytest.mark.parametrize("signal", SIGNALS)
def test_every_composition_takes_a_step_or_is_refused(
    rl: Rl, world: Path, tmp_path: Path, rollout: str, slate: int, signal: str
) -> None:
    trained, reasons = 0, []
    for objective in OBJECTIVES:
        config = run_config(world, tmp_path, rl=section(rollout, slate, signal, objective))
        try:
            rl.method = Method.make(config.rl)
        except ConfigError as error:
            reasons.append(error.why)
            continue
        rl.config, rl.signal_state, rl.objective_state = config, {}, {}
        for _ in range(4):  # a step's few prompts may all miss
            values = rl.step()
            assert all(math.isfinite(value) for value in values.values()), (objective, values)
            if values["signal/active_rows"] > 0:
                trained += 1
                break
    assert trained + len(reasons) == len(OBJECTIVES), "some composition had nothing to train on"
    assert all(reasons)


def test_what_is_refused_is_told_before_a_run(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Method.make(run_config(world, tmp_path, rl=section("sample", 2, "recast", "grpo")).rl)
    assert "rl.signal" in caught.value.found
    assert "slate" in str(caught.value)


def test_nearly_all_compositions_are_legal(world: Path, tmp_path: Path) -> None:
    legal = 0
    for (rollout, slate), signal, objective in itertools.product(WAYS, SIGNALS, OBJECTIVES):
        try:
            Method.make(run_config(world, tmp_path, rl=section(rollout, slate, signal, objective)).rl)
            legal += 1
        except ConfigError:
            pass
    assert legal > 0.8 * len(WAYS) * len(SIGNALS) * len(OBJECTIVES)
