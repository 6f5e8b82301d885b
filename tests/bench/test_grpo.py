"""GRPO against TRL: a toy case, and what must not be reported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recrl.bench import grpo
from recrl.bench.grpo import GrpoFigures, check_equal, check_rows, checked_batch, measure, micro_batches, our_loss
from recrl.bench.measurement import PeerMissingError, Setting, UnequalWorkError
from recrl.bench.trl_peer import Peer, load_trl
from recrl.bench.world import WorldSize
from recrl.training.rl import Rl


@pytest.fixture
def peer(rl: Rl, tmp_path: Path) -> Peer:
    for name in ("trl", "datasets", "accelerate"):
        pytest.importorskip(name, reason="the peer of this comparison is not installed: pip install 'recrl[bench]'")
    return Peer(rl, tmp_path / "trl", per_device=4, steps=2)


@pytest.mark.usefixtures("peer")
def test_a_toy_case_is_measured_and_shown(toy: WorldSize, setting: Setting) -> None:
    case = measure(toy, setting)
    assert len(case.ours.runs) == len(case.theirs.runs) == setting.repeats
    assert case.their_rollout < case.theirs.median
    assert case.per_device in case.per_device_tried
    assert case.logp_difference < 1e-4
    assert case.losses[0] == pytest.approx(case.losses[1], abs=1e-4)
    kept = GrpoFigures.model_validate_json(GrpoFigures(cases=[case]).model_dump_json())
    assert "| 0.3M | 274,112 | 2 x 4 | 16 |" in grpo.render(kept)


def test_both_compute_the_same_loss_and_the_same_gradient(rl: Rl, peer: Peer) -> None:
    batch, read = checked_batch(rl, seed=0)
    assert read is not None  # as in a step: the prompts are not computed again
    difference, losses = check_equal(rl, peer, batch, read)
    assert 0 <= difference < 1e-4
    assert losses[0] != pytest.approx(float(-batch.advantage.mean()), abs=1e-4), "the loss must depend on the model"
    ours, _ = our_loss(rl, batch, read)
    ours.backward()
    theirs, _ = peer.loss(batch)
    theirs.backward()
    own = dict(rl.policy.model.named_parameters())
    for name, parameter in peer.trainer.model.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)


def test_other_weights_are_refused(rl: Rl, peer: Peer) -> None:
    with torch.no_grad():
        peer.trainer.model.get_input_embeddings().weight[5:].mul_(1.01)
    with pytest.raises(UnequalWorkError, match="log-probabilities differ"):
        check_equal(rl, peer, *checked_batch(rl, seed=0))


def test_another_loss_is_refused(rl: Rl, peer: Peer) -> None:
    peer.trainer.epsilon_high = 0.01
    with pytest.raises(UnequalWorkError, match="our loss is"):
        check_equal(rl, peer, *checked_batch(rl, seed=0))


def test_other_prompts_are_refused(rl: Rl, peer: Peer) -> None:
    peer.texts[0] = peer.texts[0].removeprefix("<|bos|>")
    with pytest.raises(UnequalWorkError, match="prompts are not ours"):
        check_equal(rl, peer, *checked_batch(rl, seed=0))


def test_shorter_responses_of_trl_are_refused(peer: Peer) -> None:
    generate = peer.trainer._generate_and_score_completions

    def shorter(inputs: Any) -> Any:
        made = generate(inputs)
        return made | {name: made[name][:, :-1] for name in ("completion_ids", "completion_mask")}

    peer.trainer._generate_and_score_completions = shorter
    with pytest.raises(UnequalWorkError, match="TRL generated"):
        peer.train(lambda: None)


def test_our_step_comes_after_each_of_theirs(peer: Peer) -> None:
    seen: list[int] = []
    times = peer.train(lambda: seen.append(peer.trainer.state.global_step))
    assert seen == [1, 2]
    ours, theirs, rollout = times.after(1)
    assert len(ours.runs) == len(theirs.runs) == len(rollout.runs) == 1


def test_nothing_that_can_be_off_is_on(peer: Peer) -> None:
    arguments = peer.trainer.args
    assert not arguments.gradient_checkpointing
    assert not any(getattr(module, "gradient_checkpointing", False) for module in peer.trainer.model.modules())
    assert not arguments.bf16
    assert not arguments.report_to
    assert not arguments.log_completions
    assert arguments.logging_strategy == arguments.save_strategy == "no"
    assert peer.trainer.ref_model is None
    assert all(parameter.dtype == torch.float32 for parameter in peer.trainer.model.parameters())
    assert all(module.p == 0 for module in peer.trainer.model.modules() if isinstance(module, torch.nn.Dropout))


def test_filtered_rows_of_ours_are_refused(toy: WorldSize) -> None:
    whole = {"signal/active_rows": 8.0, "actor/optimizer_steps": 1.0}
    check_rows(toy, [whole])
    with pytest.raises(UnequalWorkError, match="on 7 rows"):
        check_rows(toy, [whole, whole | {"signal/active_rows": 7.0}])


def test_micro_batches_divide_the_rows_and_fit() -> None:
    assert micro_batches(WorldSize("0.3M", 64, 13, 12_000, 16)) == [16, 32, 64, 128, 256, 512]
    assert micro_batches(WorldSize("5M", 16, 66, 12_000, 32)) == [16, 32, 64, 128]
    assert micro_batches(WorldSize("0.3M", 2, 5, 50, 4)) == [8]


@pytest.mark.parametrize("missing", ["trl", "accelerate"])
def test_a_missing_peer_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in ("trl", "datasets", "accelerate"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    with pytest.raises(PeerMissingError) as raised:
        load_trl()
    assert raised.value.found == f"{missing} is not installed"
    assert raised.value.fix == "pip install 'recrl[bench]'"
