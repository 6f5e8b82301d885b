"""Starting ranks for Megatron-core tells the user what is missing."""

from __future__ import annotations

import importlib.util

import pytest

from recrl.backends.megatron.parallel import start
from recrl.errors import UserError


def test_a_missing_megatron_core_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="megatron-core is not installed") as caught:
        start(2)
    assert "recrl[megatron]" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("megatron") is None, reason="megatron-core is not installed")
def test_ranks_that_make_no_whole_number_of_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(UserError, match="3 ranks do not divide by it"):
        start(2)
