"""S-DPO: the worked losses, who is preferred, and prompts that tell nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from objective_inputs import inputs_of, rows_of

from recrl.objectives.s_dpo import S_DPO, SDpoOptions, s_dpo


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_the_worked_losses(worked: dict[str, Any], beta: float) -> None:
    ref = torch.tensor([[-1.0, -2.0]] * 4, dtype=torch.double)
    logp = ref + torch.tensor([[0.5], [-0.2], [0.1], [-0.4]], dtype=torch.double) / 2
    given = inputs_of(ref, [1.0, -1.0, -1.0, -1.0], ref=ref, prompt_of=[0, 0, 0, 0])
    loss, report = s_dpo(logp, given, SDpoOptions(beta=beta))
    assert float(loss) == pytest.approx(worked["B_sdpo"][f"beta{beta}"])
    assert float(report["preferred"] / report["tokens"]) == 1
    assert int(report["clip_ratio"]) == 0
    difference = ref - logp
    assert float(report["kl_loss"]) == pytest.approx(float((difference.exp() - difference - 1).sum()))


def test_the_gradient_pushes_the_preferred_up_and_the_others_down_as_much() -> None:
    ref = torch.zeros(3, 1, dtype=torch.double)
    logp = torch.tensor([[-1.0], [0.2], [-0.3]], dtype=torch.double, requires_grad=True)
    s_dpo(logp, inputs_of(ref, [-1.0, 2.0, -1.0], ref=ref, prompt_of=[0, 0, 0]), SDpoOptions(beta=1.0))[0].backward()
    weight = [math.exp(-1.0 - 0.2), math.exp(-0.3 - 0.2)]
    share = sum(weight) / (1 + sum(weight))
    expected = [share * weight[0] / sum(weight), -share, share * weight[1] / sum(weight)]
    assert logp.grad is not None
    assert logp.grad.flatten().tolist() == pytest.approx(expected)


def test_against_a_single_negative_it_is_dpo_and_so_are_its_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    ref, logp = torch.randn(2, 3, 4, generator=generator, dtype=torch.double)
    given = inputs_of(ref[:2], [-1.0, 1.0], ref=ref[:2], prompt_of=[0, 0])
    margin = (logp - ref)[1].sum() - (logp - ref)[0].sum()
    torch.testing.assert_close(s_dpo(logp[:2], given, SDpoOptions())[0], -F.logsigmoid(0.1 * margin))
    given = inputs_of(ref, [-1.0, 1.0, -0.5], ref=ref, prompt_of=[0, 0, 0])
    assert torch.autograd.gradcheck(lambda x: s_dpo(x, given, SDpoOptions(beta=1.0))[0], logp.requires_grad_())


def test_gains_are_over_the_reference_whatever_policy_made_the_rollout() -> None:
    ref = torch.zeros(2, 1)
    logp = torch.tensor([[0.5], [-0.5]])
    given = inputs_of(torch.tensor([[0.4], [-3.0]]), [1.0, -1.0], ref=ref, prompt_of=[0, 0])
    assert float(s_dpo(logp, given, SDpoOptions(beta=1.0))[0]) == pytest.approx(math.log(1 + math.exp(-1.0)))


def test_the_preferred_count_is_of_tokens_whose_prompt_is_in_order() -> None:
    ref = torch.zeros(5, 2)
    logp = torch.tensor([[1.0], [0.0], [0.0], [1.0], [0.0]]).expand(5, 2)
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True], [True, True]])
    given = inputs_of(ref, [1.0, -1.0, 1.0, -1.0, -1.0], ref=ref, prompt_of=[0, 0, 1, 1, 1], mask=mask)
    assert int(s_dpo(logp, given, SDpoOptions())[1]["preferred"]) == 3


def test_of_several_positives_the_best_and_then_the_first_is_preferred() -> None:
    ref = torch.zeros(4, 1)
    logp = torch.tensor([[0.0], [1.0], [2.0], [0.0]], requires_grad=True)
    given = inputs_of(ref, [1.0, 3.0, 3.0, -1.0], ref=ref, prompt_of=[0, 0, 0, 0])
    s_dpo(logp, given, SDpoOptions())[0].backward()
    assert logp.grad is not None
    assert (logp.grad.flatten() != 0).tolist() == [False, True, False, True]


def test_a_prompt_without_both_sides_adds_nothing_and_is_no_unit() -> None:
    ref = torch.zeros(6, 2)
    mask = torch.tensor([[True, True]] * 5 + [[False, False]])
    logp = torch.ones(6, 2, requires_grad=True)
    advantage, of = [1.0, 1.0, -1.0, 1.0, -1.0, -1.0], [0, 0, 1, 2, 2, 3]
    loss, _ = s_dpo(logp, inputs_of(ref, advantage, ref=ref, prompt_of=of, mask=mask), SDpoOptions())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert logp.grad is not None
    assert (logp.grad != 0).any(1).tolist() == [False, False, False, True, True, False]
    assert int(S_DPO.units(rows_of(ref, advantage, mask=mask, prompt_of=of), SDpoOptions())) == 1
    assert S_DPO.needs_reference(SDpoOptions())
