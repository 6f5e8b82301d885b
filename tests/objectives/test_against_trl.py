"""GRPO, Dr. GRPO, DAPO and GSPO against TRL's own loss on the same log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from objective_inputs import inputs_of, rows_of
from torch import Tensor

from recrl.objectives import OBJECTIVES
from recrl.objectives.base import Objective
from recrl.parts import load_part

grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is a peer: pip install 'recrl[bench]'")

LONGEST = 5
CASES = {
    "grpo": ("grpo", {"kl_beta": 0.05}, {"loss_type": "grpo", "beta": 0.05}),
    "dual_clip": ("grpo", {"dual_clip": 1.3}, {"loss_type": "grpo", "delta": 1.3}),
    "token": ("grpo", {"average": "token", "kl_beta": 0.05}, {"loss_type": "bnpo", "beta": 0.05}),
    "dapo": ("grpo", {"clip_high": 0.28, "average": "token"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": ("grpo", {"average": "sum"}, {"loss_type": "dr_grpo"}),
    "gspo": (
        "gspo", {}, {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
    ),
    "gspo_wide": ("gspo", {"clip_low": 0.2, "clip_high": 0.2}, {"importance_sampling_level": "sequence"}),
}  # fmt: skip


def their_loss(logp: Tensor, old: Tensor, ref: Tensor, advantage: Tensor, mask: Tensor, options: dict[str, Any]) -> Any:
    """TRL's loss with its model replaced by log-probabilities."""
    values = {
        "loss_type": "grpo", "importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2,
        "delta": None,
    } | options  # fmt: skip
    trainer = SimpleNamespace(
        **values,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(delta=values["delta"], use_bias_correction_kl=False),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda value: value, reduce=lambda value, **_: value),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
    )
    blank = torch.zeros(len(logp), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": blank,
        "prompt_mask": blank,
        "completion_ids": torch.zeros_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    return grpo_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(name: str) -> None:
    kind, ours, theirs = CASES[name]
    generator = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(9, LONGEST, generator=generator)
    logp = old + 0.3 * torch.randn(9, LONGEST, generator=generator)
    ref = old + 0.1 * torch.randn(9, LONGEST, generator=generator)
    advantage = torch.randn(9, generator=generator)
    mask = torch.arange(LONGEST) < torch.randint(1, LONGEST + 1, (9, 1), generator=generator)
    part = load_part(OBJECTIVES, kind, where="rl.objective")
    assert isinstance(part, Objective)
    options = part.options.model_validate(ours)
    own, peer = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    expected = their_loss(peer, old, ref, advantage, mask, theirs)
    given = {"mask": mask, "ref": ref if "kl_beta" in ours else None}
    total, _ = part.run(own, inputs_of(old, advantage.tolist(), **given), options)
    loss = total / part.units(rows_of(old, advantage.tolist(), **given), options)
    if name == "dr_grpo":
        loss = loss / LONGEST  # TRL's constant, which an optimiser of Adam's kind does not see
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(own.grad, peer.grad, atol=1e-6, rtol=1e-4)
