"""A decoder over several ranks with Megatron-core gives what one process gives with transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from distributed.launching import run_ranks
from distributed.measures import measure, tiny_trie
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from worlds import tiny_index, tiny_model

from recrl.backends.torch_backend import TransformersPolicy
from recrl.models.checkpoint import load_folder
from recrl.models.presets import preset_tokenizer
from recrl.sids.tokens import add_sid_tokens

pytestmark = pytest.mark.skipif(find_spec("megatron") is None, reason="megatron-core is not installed")
OLDER = os.environ.get("RECRL_OLDER_MEGATRON")
"""A folder that an older megatron-core is installed in."""
SPACES = ("raw", "legal")


def odd_tokenizer() -> PreTrainedTokenizerBase:
    """Knows a number of tokens that does not divide by 2."""
    tokenizer = preset_tokenizer([], 0)
    add_sid_tokens(tokenizer, tiny_index())
    if len(tokenizer) % 2 == 0:
        tokenizer.add_tokens(["<|odd|>"])
    return tokenizer


def write_model(kind: str, folder: Path) -> None:
    tokenizer = odd_tokenizer()
    model = tiny_model(kind, len(tokenizer))
    with torch.no_grad():  # vectors that are not all 0 or 1
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def expected(folder: Path, space: str, dtype: str = "float32") -> dict[str, Tensor]:
    model, tokenizer = load_folder(folder)
    trie = tiny_trie(tokenizer)
    policy = TransformersPolicy(model, tokenizer, trie, torch.device("cpu"), space=space, dtype=dtype)
    return {name: tensor.detach() for name, tensor in measure(policy).items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders in which ranks have left their results; a run is shared by the tests that ask for the same."""
    done: dict[tuple[object, ...], Path] = {}

    def run(kind: str, ranks: int, tensor_parallel: int, *options: str, ahead: Path | None = None) -> Path:
        key = (kind, ranks, tensor_parallel, *options, ahead)
        if key not in done:
            folder = tmp_path_factory.mktemp("ranks")
            write_model(kind, folder / "model")
            finished = run_ranks("megatron_ranks.py", ranks, folder, tensor_parallel, *options, ahead=ahead)
            assert finished.returncode == 0, finished.stdout
            done[key] = folder
        return done[key]

    return run


def assert_like(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Whole numbers are equal; others differ by a small share of their tensor's largest value."""
    for name, tensor in wanted.items():
        if not tensor.is_floating_point():
            torch.testing.assert_close(found[name], tensor, msg=name, atol=0, rtol=0)
            continue
        # AdamW divides by the root of a second moment: it steps even where a gradient is 0 but for rounding.
        trained = name.startswith(("weight.", "exp_avg"))
        apart = float((found[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-30))
        assert apart < (1e-4 if trained else 1e-5), f"{name}: {apart}"


CASES = {
    "qwen3-tp2": ("qwen3", 2, 2),
    "qwen2-tp2": ("qwen2", 2, 2),
    "qwen3-tp2-dp2": ("qwen3", 4, 2, "--checkpointed"),
    "qwen3-tp1": ("qwen3", 1, 1),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("space", SPACES)
@each_case
def test_rollouts_gradients_and_ten_steps_equal_those_of_one_process(
    runs: Callable[..., Path], case: tuple[str, ...], space: str
) -> None:
    folder = runs(*case)
    assert_like(load_file(folder / f"{space}.safetensors"), expected(folder / "model", space))


@each_case
def test_all_ranks_of_a_model_see_the_same_bits(runs: Callable[..., Path], case: tuple[str, ...]) -> None:
    folder = runs(*case)
    for space in SPACES:
        first, *others = (load_file(folder / f"{space}-{rank}.safetensors") for rank in range(int(case[1])))
        for other in others:
            for name, tensor in first.items():
                assert torch.equal(tensor, other[name]), name


@each_case
def test_a_saved_model_is_what_transformers_loads(runs: Callable[..., Path], case: tuple[str, ...]) -> None:
    folder = runs(*case)
    (before, tokenizer), (after, same) = load_folder(folder / "model"), load_folder(folder / "saved")
    assert same.get_vocab() == tokenizer.get_vocab()
    assert after.config.to_dict() == before.config.to_dict() | {"_name_or_path": after.config.name_or_path}
    kept = dict(after.named_parameters())
    for name, parameter in before.named_parameters():
        assert torch.equal(kept.pop(name), parameter), name
    assert not kept


@each_case
def test_a_frozen_copy_stays_as_it_was(runs: Callable[..., Path], case: tuple[str, ...]) -> None:
    folder = runs(*case)
    before, _ = load_folder(folder / "model")
    found = load_file(folder / "raw.safetensors")
    for name, parameter in before.named_parameters():
        assert torch.equal(found[f"frozen.{name}"], parameter), name
        assert not torch.equal(found[f"weight.{name}"], parameter), name


def test_bfloat16_comes_as_near_as_one_process_does(runs: Callable[..., Path]) -> None:
    folder = runs(*CASES["qwen3-tp2"])
    found, exact = load_file(folder / "bfloat16.safetensors"), expected(folder / "model", "raw")
    theirs = expected(folder / "model", "raw", "bfloat16")
    for name in ("text", "spread", "hidden"):
        error, usual = ((other[name] - exact[name]).abs().mean() for other in (found, theirs))
        assert 0 < error < 2 * usual, name


@pytest.mark.skipif(not OLDER, reason="RECRL_OLDER_MEGATRON names no folder with an older megatron-core")
@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_an_older_megatron_core_gives_the_same(runs: Callable[..., Path], kind: str) -> None:
    folder = runs(kind, 2, 2, ahead=Path(str(OLDER)))
    for space in SPACES:
        with safe_open(folder / f"{space}.safetensors", framework="pt") as file:
            assert file.metadata()["megatron"] != version("megatron-core")
        assert_like(load_file(folder / f"{space}.safetensors"), expected(folder / "model", space))
