"""What every objective promises, over the whole table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from groups_of import OPS
from objective_inputs import rows_of
from torch import Tensor

from recrl.groups.packed import PackedGroups
from recrl.objectives import OBJECTIVES
from recrl.objectives.base import Objective, ObjectiveInputs
from recrl.parts import load_part


def part_of(kind: str) -> Objective:
    part = load_part(OBJECTIVES, kind, where="rl.objective")
    assert isinstance(part, Objective)
    return part


def random_rows(seed: int = 0) -> tuple[PackedGroups, Tensor]:
    """Twelve rows of four prompts with gaps, and log-probabilities near the old ones."""
    generator = torch.Generator().manual_seed(seed)
    of = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3]
    old = -3 * torch.rand(12, 4, generator=generator)
    logp = (old + 0.5 * torch.randn(12, 4, generator=generator)).clamp(max=-0.01)
    ref = old + 0.1 * torch.randn(12, 4, generator=generator)
    mask = torch.arange(4) < torch.randint(0, 5, (12, 1), generator=generator)
    mask[:2], mask[3] = True, False
    advantage = torch.randn(12, generator=generator)
    entropy = torch.rand(12, generator=generator)
    entropy[5] = float("nan")
    rows = rows_of(
        old, advantage.tolist(), mask=mask, ref=ref, prompt_of=of,
        slate_size=torch.randint(0, 4, (12,), generator=generator).tolist(), slate_entropy=entropy.tolist(),
    )  # fmt: skip
    return rows, logp


def loss_of(part: Objective, rows: PackedGroups, logp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    options = part.options()
    state = {"entropy_mean": 0.8}
    loss, report = part.run(logp, ObjectiveInputs.of(rows, logp, OPS, state), options)
    return loss, report


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_values_gradients_and_reports_are_finite(kind: str) -> None:
    rows, logp = random_rows()
    logp.requires_grad_()
    loss, report = loss_of(part_of(kind), rows, logp)
    loss.backward()
    assert loss.isfinite()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()
    assert (logp.grad[rows.mask] != 0).any()
    assert (logp.grad[~rows.mask] == 0).all()
    assert {"clip_ratio", "kl_loss", "ppo_kl", "tokens"} <= report.keys()
    assert all(value.isfinite() and not value.requires_grad for value in report.values())
    assert int(report["tokens"]) == int(rows.mask.sum())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_any_cut_between_prompts_gives_the_same_sum_and_units(kind: str) -> None:
    part = part_of(kind)
    rows, logp = random_rows()
    halves = [torch.arange(2), torch.arange(2, 4)]
    cut = logp.clone().requires_grad_()
    logp.requires_grad_()
    whole, report = loss_of(part, rows, logp)
    parts = [loss_of(part, rows.select(half), cut[torch.isin(rows.prompt_of, half)]) for half in halves]
    together = torch.stack([loss for loss, _ in parts]).sum()
    torch.testing.assert_close(together, whole)
    whole.backward()
    together.backward()
    torch.testing.assert_close(cut.grad, logp.grad)
    units = part.units(rows, part.options())
    assert int(units) == sum(int(part.units(rows.select(half), part.options())) for half in halves)
    for name in report:
        torch.testing.assert_close(sum(one[name] for _, one in parts), report[name])


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_masked_places_hold_changes_nothing(kind: str) -> None:
    rows, logp = random_rows()
    logp.requires_grad_()
    expected, _ = loss_of(part_of(kind), rows, logp)
    expected.backward()
    junk = torch.where(rows.mask, logp.detach(), float("-inf")).requires_grad_()
    dirty = replace(rows, logp_old=torch.where(rows.mask, rows.logp_old, float("-inf")))
    loss, report = loss_of(part_of(kind), dirty, junk)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(junk.grad, logp.grad)
    assert all(value.isfinite() for value in report.values())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_padding_behind_the_rows_changes_neither_the_loss_nor_the_report(kind: str) -> None:
    rows, logp = random_rows()
    names = ("tokens", "mask", "nodes", "logp_old", "logp_ref")
    wide = replace(rows, **{name: F.pad(getattr(rows, name), (0, 3)) for name in names})
    torch.testing.assert_close(loss_of(part_of(kind), wide, F.pad(logp, (0, 3))), loss_of(part_of(kind), rows, logp))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_rows_without_tokens_add_nothing_and_are_no_units(kind: str) -> None:
    part = part_of(kind)
    rows, logp = random_rows()
    real = rows.mask.any(1)
    names = ("prompt_of", "slot", "tokens", "mask", "nodes", "advantage", "slate_size", "slate_entropy")
    tensors = {name: getattr(rows, name)[real] for name in (*names, "logp_old", "logp_ref")}
    kept = replace(rows, **tensors)
    assert len(kept) < len(rows)
    torch.testing.assert_close(loss_of(part, kept, logp[real]), loss_of(part, rows, logp))
    assert int(part.units(kept, part.options())) == int(part.units(rows, part.options()))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_advantage_of_zero_adds_nothing(kind: str) -> None:
    rows, logp = random_rows()
    logp.requires_grad_()
    loss, report = loss_of(part_of(kind), replace(rows, advantage=torch.zeros(len(rows))), logp)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logp.grad is not None
    assert (logp.grad == 0).all()
    assert int(report["clip_ratio"]) == 0


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_without_any_token_the_mean_is_zero(kind: str) -> None:
    part = part_of(kind)
    rows, logp = random_rows()
    empty = replace(rows, mask=torch.zeros_like(rows.mask))
    loss, _ = loss_of(part, empty, logp)
    assert float(loss / part.units(empty, part.options())) == 0


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_extreme_ratios_stay_finite(kind: str) -> None:
    rows, logp = random_rows()
    far = (logp + torch.where(torch.arange(12) % 2 == 0, 1000.0, -1000.0).unsqueeze(1)).requires_grad_()
    loss, _ = loss_of(part_of(kind), rows, far)
    loss.backward()
    assert loss.isfinite()
    assert far.grad is not None
    assert far.grad.isfinite().all()
