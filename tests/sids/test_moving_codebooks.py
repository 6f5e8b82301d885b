from __future__ import annotations

import pytest
import torch

from recrl.sids.quantizers.moving_codebooks import MovingCodebooks, quantise_batch


def test_commitment_and_its_gradient_by_hand():
    """h = 1, codes {0, 3} then {0.5}: residual 1 -> 0, then 1 -> .5. Terms 1 and .25."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    books = [torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5]])]
    quantised, commitment, chosen = quantise_batch(hidden, books)
    assert quantised.item() == pytest.approx(0.5)
    assert commitment.item() == pytest.approx(1.25)
    assert [(residual.item(), codes.item()) for residual, codes in chosen] == [(1.0, 0), (1.0, 0)]
    commitment.backward()
    assert hidden.grad.item() == pytest.approx(2 * 1 + 2 * 0.5)


def test_the_gradient_passes_straight_through():
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    quantised, _, _ = quantise_batch(hidden, [torch.zeros(1, 2)])
    (quantised * torch.tensor([[3.0, -1.0]])).sum().backward()
    assert hidden.grad.tolist() == [[3.0, -1.0]]


def test_a_moving_average_by_hand():
    """Two rows a batch, one code: count 2 and sum 2 * 1; half of each stays, half comes from the rows 3 and 5."""
    codebooks = MovingCodebooks([torch.tensor([[1.0]])], decay=0.5, batch=2)
    codebooks.update(0, torch.tensor([[3.0], [5.0]]), torch.tensor([0, 0]))
    assert codebooks.books[0].tolist() == [[2.5]]  # (1 + 4) / (1 + 1)


def test_a_code_that_no_row_chooses_begins_again_at_a_row():
    codebooks = MovingCodebooks([torch.tensor([[0.0], [100.0]])], decay=0.5, batch=2)
    rows = torch.tensor([[1.0], [2.0]])
    counts = []
    for _ in range(4):
        codebooks.update(0, rows, torch.tensor([0, 0]))
        counts.append(codebooks.books[0][1].item())
    assert counts[:3] == [100.0] * 3  # counts 1/2, 1/4, 1/8; the fourth is below a tenth of an equal share
    assert counts[3] in (1.0, 2.0)
