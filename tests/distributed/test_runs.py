"""Runs on several ranks are the run of one process: the same numbers, the same files, and nothing hangs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from distributed.launching import run_ranks, start_ranks
from runs import SHAPE, metrics, run_config, silent, write_world
from safetensors.torch import load_file

from recrl.config import ModelSection, RunConfig
from recrl.data import dataset as datasets
from recrl.evaluation.evaluate import evaluate
from recrl.models.checkpoint import save_folder
from recrl.models.presets import preset_model, preset_tokenizer
from recrl.store import checkpoint
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft

TP2 = {"engine": "megatron", "tensor_parallel": 2}
FSDP2 = {"engine": "fsdp2"}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {}),
    "fsdp2": (2, FSDP2),
    "tp2": (2, TP2),
    "tp2-dp2": (4, TP2),
}
SFT = {
    "epochs": 1,
    "batch_size": 32,
    "ema_decay": 0.9,
    "held_out": 0.3,
    "target_weight_power": 0.5,
    "teacher": {"weight": 0.5, "prompts": 8, "responses": 4},
}
RL = {
    "lr": 1e-3,
    "warmup_steps": 0,
    "prompts_per_step": 15,
    "epochs": 2,
    "mini_batches": 2,
    "max_ndcg_drop": 1.0,
}
METHODS: dict[str, dict[str, Any]] = {
    "recast": {"signal": {"kind": "recast"}, "objective": {"kind": "grpo", "kl_beta": 0.1}},
    "sage": {
        "rollout": {"kind": "sample", "group_size": 6},
        "signal": {"kind": "decoupled"},
        "rewards": [{"kind": "sid_level"}, {"kind": "engagement", "weight": 0.5}],
        "objective": {"kind": "sage"},
    },
}
each_layout = pytest.mark.parametrize(("ranks", "backend"), LAYOUTS.values(), ids=LAYOUTS.keys())


@pytest.fixture(autouse=True)
def _megatron_where_it_is_asked_for(request: pytest.FixtureRequest) -> None:
    given = getattr(request.node, "callspec", None)
    if given is not None and given.params.get("backend") == TP2:
        pytest.importorskip("megatron.core", reason="megatron-core is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """SFT by one process."""
    config = run_config(world, tmp_path_factory.mktemp("alone"), sft=SFT)
    train_sft(config, silent)
    return config


@pytest.fixture(scope="module")
def methods_alone(world: Path, alone: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    """RL by one process, from its SFT."""
    made = {}
    for name, method in METHODS.items():
        made[name] = run_config(world, tmp_path_factory.mktemp(name), rl=rl_options(alone, method))
        train_rl(made[name], silent)
    return made


def rl_options(start: RunConfig, method: dict[str, Any]) -> dict[str, Any]:
    return RL | {"init": str(checkpoint.best(start.folder / "sft").model)} | method


def written(config: RunConfig) -> Path:
    path = config.run.dir / "run.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_toml())
    return path


def assert_same_run(config: RunConfig, wanted: RunConfig, stage: str) -> None:
    """Every metric to 1e-5, and every weight of the last checkpoint to 1e-4 (AdamW divides by small numbers)."""
    lines, expected = metrics(config.folder / stage), metrics(wanted.folder / stage)
    assert len(lines) == len(expected) > 0
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5, abs=1e-5), f"step {other['step']}"
    model, other_model = (
        load_file(run.folder / stage / "latest" / "model" / "model.safetensors") for run in (config, wanted)
    )
    assert model.keys() == other_model.keys()
    for name, tensor in other_model.items():
        torch.testing.assert_close(model[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


@each_layout
def test_sft_and_rl_are_the_runs_of_one_process(
    world: Path,
    alone: RunConfig,
    methods_alone: dict[str, RunConfig],
    tmp_path: Path,
    ranks: int,
    backend: dict[str, Any],
) -> None:
    sft = run_config(world, tmp_path / "sft", sft=SFT, backend=backend)
    rl = {
        name: run_config(world, tmp_path / name, rl=rl_options(alone, method), backend=backend)
        for name, method in METHODS.items()
    }
    commands = ["sft", written(sft)]
    for config in rl.values():
        commands += ["+", "rl", written(config)]
    done = run_ranks("command.py", ranks, *commands)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("SFT finished") == 1
    assert done.stdout.count("RL finished") == len(METHODS)
    assert_same_run(sft, alone, "sft")
    for name, config in rl.items():
        assert_same_run(config, methods_alone[name], "rl")


def test_ranks_that_measure_differently_take_the_first_ones_arithmetic(world: Path, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, sft=SFT, backend={"dtype": "auto"})
    done = run_ranks("unlike.py", 2, written(config))
    assert done.returncode == 0, done.stdout
    assert "chosen: ['bfloat16', 'bfloat16']" in done.stdout


@pytest.mark.parametrize("backend", [{}, FSDP2], ids=["dp2", "fsdp2"])
def test_a_rank_without_a_prompt_goes_along(
    world: Path, alone: RunConfig, tmp_path: Path, backend: dict[str, Any]
) -> None:
    options = rl_options(alone, METHODS["recast"]) | {"prompts_per_step": 1, "mini_batches": 1}
    one, two = (
        run_config(world, tmp_path / name, rl=options, backend=layout)
        for name, layout in (("one", {}), ("two", backend))
    )
    train_rl(one, silent)
    done = run_ranks("command.py", 2, "rl", written(two))
    assert done.returncode == 0, done.stdout
    assert_same_run(two, one, "rl")


@pytest.mark.parametrize(
    ("first", "then"), [((1, {}), (2, TP2)), ((2, TP2), (2, FSDP2)), ((2, FSDP2), (1, {}))], ids=["tp2", "fsdp2", "one"]
)
def test_a_run_goes_on_in_another_layout(
    world: Path,
    alone: RunConfig,
    methods_alone: dict[str, RunConfig],
    tmp_path: Path,
    first: tuple[int, dict[str, Any]],
    then: tuple[int, dict[str, Any]],
) -> None:
    if TP2 in (first[1], then[1]):
        pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    for steps, (ranks, backend), flags in ((2, first, ()), (4, then, ("--resume",))):
        # The schedule is that of four steps from the start: the run is cut short by a limit that is taken away.
        config = run_config(world, tmp_path, rl=rl_options(alone, METHODS["recast"]), backend=backend)
        done = run_ranks("cut_short.py", ranks, steps, "rl", written(config), *flags)
        assert done.returncode == 0, done.stdout
    assert_same_run(config, methods_alone["recast"], "rl")


def test_dropout_trains_where_weights_are_shared_out_and_is_refused_where_it_is_not_built(
    world: Path, tmp_path: Path
) -> None:
    drops: dict[str, Any] = {"sft": {"epochs": 1, "batch_size": 64}, "model": {"dropout": 0.2}}
    two = run_config(world, tmp_path / "two", **drops, backend=FSDP2)
    done = run_ranks("command.py", 2, "sft", written(two))
    assert done.returncode == 0, done.stdout
    losses = [line["sft/loss"] for line in metrics(two.folder / "sft")]
    assert losses[-1] < losses[0]
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    refused = run_config(world, tmp_path / "refused", **drops, backend=TP2)
    done = run_ranks("command.py", 2, "sft", written(refused))
    assert done.returncode != 0
    assert "model.dropout = 0.2 with backend.engine = 'megatron'" in done.stdout
    assert not refused.folder.exists()


def test_a_folder_whose_vocabulary_grows_is_learned_in_parts(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    tokenizer = preset_tokenizer([], 0)
    save_folder(preset_model("tiny", SHAPE, len(tokenizer), 0), tokenizer, tmp_path / "start")
    start = {"model": ModelSection(path=tmp_path / "start")}
    options = {"epochs": 1, "batch_size": 64}
    one = run_config(world, tmp_path / "one", sft=options).model_copy(update=start)
    train_sft(one, silent)
    two = run_config(world, tmp_path / "two", sft=options, backend=TP2).model_copy(update=start)
    done = run_ranks("command.py", 2, "sft", written(two))
    assert done.returncode == 0, done.stdout
    assert_same_run(two, one, "sft")


def test_evaluation_and_recommendation_do_not_depend_on_the_ranks(alone: RunConfig, tmp_path: Path) -> None:
    ids = datasets.load(alone.data.path).catalog.item_ids
    histories = {"ann": ids[:3], "bob": ids[7:8], "cid": [ids[4], ids[4], *ids[9:12]]}
    (tmp_path / "users.txt").write_text("".join(f"{user} {' '.join(row)}\n" for user, row in histories.items()))
    ask = ("recommend", "--users", tmp_path / "users.txt", "--k", "5", "--run", alone.folder, "--out")
    evaluated, folder = evaluate([alone.folder], "test", lambda _: None)
    numbers = {path.name: path.read_bytes() for path in folder.glob("sft-*.safetensors")}
    evaluation = ("+", "eval", alone.folder, "--split", "test")
    for ranks, name, more in ((1, "one", ()), (2, "two", evaluation)):
        done = run_ranks("command.py", ranks, *ask, tmp_path / f"{name}.parquet", *more)
        assert done.returncode == 0, done.stdout
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.drop(["score"]).equals(two.drop(["score"]))
    assert one.num_rows == 15
    assert evaluated
    assert numbers == {path.name: path.read_bytes() for path in folder.glob("sft-*.safetensors")}


def wait_for(done: Callable[[], bool]) -> None:
    """The test's own time limit ends a wait in vain."""
    while not done():
        time.sleep(0.05)


def is_rank(process: psutil.Process, rank: str) -> bool:
    return process.environ().get("RANK") == rank


def test_a_rank_that_dies_ends_the_run_and_the_next_launch_goes_on(
    world: Path, alone: RunConfig, methods_alone: dict[str, RunConfig], tmp_path: Path
) -> None:
    config = run_config(world, tmp_path, rl=rl_options(alone, METHODS["recast"]) | {"checkpoint_every": 1})
    process = start_ranks("command.py", 2, "rl", written(config))
    try:
        wait_for(lambda: (config.folder / "rl" / "checkpoints" / "step-000001").is_dir())
        ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if is_rank(child, "1")]
        assert ranks
        ranks[0].send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=60)  # within a minute, and not after a collective's half hour
    finally:
        process.kill()
    assert process.returncode != 0
    assert "rank      : 1" in said
    assert "SIGKILL" in said
    done = run_ranks("command.py", 2, "rl", written(config), "--resume")
    assert done.returncode == 0, done.stdout
    assert_same_run(config, methods_alone["recast"], "rl")


def test_a_rank_that_fails_says_where_and_ends_the_run(world: Path, alone: RunConfig, tmp_path: Path) -> None:
    config = run_config(world, tmp_path, rl=rl_options(alone, METHODS["recast"]))
    done = run_ranks("failing.py", 2, "rl", written(config), timeout_s=60)
    assert done.returncode != 0
    assert "rank      : 1" in done.stdout
    assert "Traceback" in done.stdout
    assert "ArithmeticError: rank 1 can't go on" in done.stdout
