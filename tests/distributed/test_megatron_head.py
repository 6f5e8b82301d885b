"""Log-probabilities over a vocabulary that several ranks hold."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from distributed.launching import run_ranks

pytestmark = pytest.mark.skipif(find_spec("megatron") is None, reason="megatron-core is not installed")


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_output_matrix_in_parts_gives_what_the_whole_one_gives(ranks: int) -> None:
    done = run_ranks("head_ranks.py", ranks)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("equal") == ranks
