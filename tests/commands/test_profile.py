"""``recrl profile``: what its commands print."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from recrl.commands.main import main
from recrl.commands.profile import profile
from recrl.config import check
from recrl.hardware.profiles import known_profiles

PLAN = (
    "--model",
    "Qwen3-8B",
    "--recipe",
    "recast",
    "--prompt-tokens",
    "3300",
    "--group",
    "32",
    "--prompts-per-step",
    "64",
)


def run(*arguments: str) -> str:
    shown = CliRunner().invoke(profile, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_list_names_every_profile_with_its_figures() -> None:
    shown = json.loads(run("list", "--json"))
    assert [one["name"] for one in shown] == known_profiles()
    assert next(one for one in shown if one["name"] == "h100-64")["devices"] == 64
    table = run("list")
    assert all(name in table for name in known_profiles())
    assert "989.4" in table


def test_show_gives_the_source_of_every_figure() -> None:
    shown = run("show", "ascend-910b3-64")
    assert "8 x 8 devices of type npu" in shown
    assert "white paper: 313 TFLOPS FP16" in shown
    assert json.loads(run("show", "ascend-910b3-64", "--json"))["sources"]["inter_node_gbps"] in shown
    assert "measured where it stands" in run("show", "cpu")


def test_detect_says_how_it_knows() -> None:
    found = json.loads(run("detect", "--json"))
    assert found["why"] in run("detect")


def test_size_judges_every_layout_and_puts_the_best_first() -> None:
    shown = json.loads(run("size", *PLAN, "--profile", "ascend-910b3-64", "--json"))
    layouts = shown["layouts"]
    assert shown["load"]["active"] == 2
    assert shown["tokens"]["update"] == 64 * (3300 + 2 * 2)
    assert layouts[0]["fits"]
    assert {layout["tensor_parallel"] for layout in layouts} == {1, 2, 4, 8}
    assert set(layouts[0]["memory"]) == {"rollout", "backward", "update"}
    assert set(layouts[0]["phases"]) == {"rollout", "old_log_prob", "reference", "update"}
    table = run("size", *PLAN, "--profile", "ascend-910b3-64")
    assert "2 rows of a group are trained on, in 4 optimiser steps, with old log-prob and reference" in table
    assert "GiB in backward" in table
    assert f"update {layouts[0]['phases']['update']['flops'] / 1e15:.3g}" in table
    best = layouts[0]
    assert table.index(f"{best['tensor_parallel']} x {best['data_parallel']}") < table.index("1 x 64")


def test_select_is_the_first_layout_of_size() -> None:
    best = json.loads(run("size", *PLAN, "--profile", "h100-64", "--json"))["layouts"][0]
    chosen = json.loads(run("select", *PLAN, "--profile", "h100-64", "--json"))
    assert chosen.items() > best.items()
    assert chosen["settings"]["backend.tensor_parallel"] == best["tensor_parallel"]
    assert f"backend.token_budget = {best['token_budget']}" in run("select", *PLAN, "--profile", "h100-64")


def test_the_settings_of_the_chosen_layout_make_a_config() -> None:
    shown = run("select", *PLAN, "--profile", "h100-64")
    config = tomllib.loads("\n".join(line for line in shown.splitlines() if line.startswith("  ")))
    backend = check(config, "the settings").backend
    assert (backend.engine, backend.tensor_parallel) == ("megatron", 8)


def test_a_folder_of_a_model_will_do_and_this_machine_is_the_default(tmp_path: Path) -> None:
    values = {
        "model_type": "qwen3", "vocab_size": 1200, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    shown = json.loads(
        run("size", "--model", str(tmp_path), "--recipe", "minionerec", "--prompt-tokens", "100", "--json")
    )
    assert shown["model"]["hidden"] == 64
    assert shown["response_tokens"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["select", *PLAN, "--profile", "rtx4090"], "no layout fits"),
        (["size", *PLAN, "--profile", "h10"], "did you mean 'h100'"),
        (["size", *PLAN, "--response-tokens", "0", "--profile", "h100"], "response tokens = 0"),
        (["size", "--model", "Qwen4", "--recipe", "recast", "--prompt-tokens", "9"], "neither a built-in shape"),
        (["size", "--model", "Qwen3-8B", "--recipe", "recas", "--prompt-tokens", "9"], "did you mean 'recast'"),
    ],
    ids=["nothing fits", "profile", "response", "model", "recipe"],
)
def test_what_can_not_be_is_the_users_error(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["profile", *arguments])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
