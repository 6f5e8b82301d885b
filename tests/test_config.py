from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from recrl import recipe as recipes
from recrl.config import RunConfig, check, load
from recrl.config_help import FAMILIES, example, json_schema, part_help, section_keys
from recrl.config_layers import merge
from recrl.errors import ConfigError
from recrl.method import Method
from recrl.parts import Choice
from recrl.rollout import ROLLOUTS
from recrl.sids.encoders import resolve_encoder
from recrl.sids.quantizers import resolve_quantizer


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def leaves(model: BaseModel, prefix: str = "") -> set[str]:
    """Keys that hold a value; a section is not one, a part is."""
    keys = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        inner = isinstance(value, BaseModel) and not isinstance(value, Choice)
        keys |= leaves(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return keys


def test_an_empty_file_is_all_defaults(tmp_path: Path):
    assert load(written(tmp_path, "")) == RunConfig()


def test_what_is_written_reads_back_equal(tmp_path: Path):
    config = load(written(tmp_path, example()), ("sft.tasks={next=1,titles_to_sid=0.5}", "model.text_vocab_size=300"))
    assert check(tomllib.loads(config.to_toml()), "again") == config


def test_later_layers_win(tmp_path: Path):
    recipe = written(tmp_path, '[rl]\nsteps = 7\n[rl.rollout]\nkind = "beam"\ngroup_size = 32\n', "mine.toml")
    text = f'[rl]\nrecipe = "{recipe}"\n[rl.rollout]\ngroup_size = 8\n[sft]\nlr = 0.5\n'
    config = load(written(tmp_path, text), ("sft.lr=0.25",))
    assert config.rl.steps == 7  # recipe over default
    assert config.rl.rollout.given == {"group_size": 8}  # file over recipe, key by key
    assert config.rl.rollout.kind == "beam"
    assert config.sft.lr == 0.25  # --set over file
    assert config.sft.epochs == RunConfig().sft.epochs


def test_the_recipe_of_the_call_wins_over_the_file(tmp_path: Path):
    written(tmp_path, "[rl]\nsteps = 7\n", "mine.toml")
    path = written(tmp_path, '[rl]\nrecipe = "openonerec_rl"\n')
    assert load(path).rl.objective.given["clip_high"] == 0.28
    config = load(path, recipe=str(tmp_path / "mine.toml"))
    assert (config.rl.steps, config.rl.objective.given) == (7, {})


def test_a_part_of_another_kind_leaves_no_option_of_the_first_behind():
    below = {"objective": {"kind": "grpo", "clip_low": 0.1}}
    assert merge(below, {"objective": {"kind": "other"}}) == {"objective": {"kind": "other"}}
    assert merge(below, {"objective": {"clip_low": 0.3}}) == {"objective": {"kind": "grpo", "clip_low": 0.3}}
    assert below == {"objective": {"kind": "grpo", "clip_low": 0.1}}


def test_a_kind_alone_takes_options_from_above(tmp_path: Path):
    assert merge({"signal": "sign"}, {"signal": {"scale": 2}}) == {"signal": {"kind": "sign", "scale": 2}}
    assert merge({"signal": {"kind": "sign", "scale": 2}}, {"signal": "other"}) == {"signal": "other"}
    path = written(tmp_path, '[memory]\nscorer = "item_knn"\n')
    scorer = load(path, ("memory.scorer.shrinkage=5",)).memory.scorer
    assert (scorer.kind, scorer.given) == ("item_knn", {"shrinkage": 5})
    assert load(path, ("memory.scorer.kind=text_knn",)).memory.scorer.kind == "text_knn"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run.name=word", "word"),
        ("run.name='quoted word'", None),
        ('run.name="a=b"', None),
        ("run.name = spaced ", "spaced"),
        ("eval.k=[1, 2]", (1, 2)),
        ("sft.gradient_checkpointing=true", True),
        ("rl.lr=1e-3", 0.001),
    ],
)
def test_an_override_is_toml_or_a_bare_word(tmp_path: Path, text: str, value: object):
    path = written(tmp_path, "")
    if value is None:  # the name's own rule refuses what the override brought through whole
        with pytest.raises(ConfigError, match=r"quoted word|a=b"):
            load(path, (text,))
        return
    section, key = text.partition("=")[0].strip().split(".")
    assert getattr(getattr(load(path, (text,)), section), key) == value


def test_an_error_names_file_key_value_reason_and_fix(tmp_path: Path):
    path = written(tmp_path, "[sft]\nlr = -1\nepochs = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.found == f"{path}: sft.epochs = 0 (and 1 more)"
    assert caught.value.why == "Input should be greater than or equal to 1"
    assert "recrl config schema" in caught.value.fix


def test_a_rule_between_keys_names_the_section_and_not_its_whole_value(tmp_path: Path):
    path = written(tmp_path, '[model]\npreset = "tiny"\npath = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.found == f"{path}: [model]"
    assert caught.value.why.startswith("preset and path exclude each other")


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().sft.lr = 1.0


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("", "recrl"),
        ("[rl]\nsteps = 7\n", "recrl"),
        ('[rl]\nrecipe = "recast"\n', "recast"),
        ('[[rl.rewards]]\nkind = "hit"\n', None),
        ('[rl.objective]\nkind = "gspo"\n', None),
    ],
)
def test_the_default_recipe_is_for_configs_that_name_no_method(tmp_path: Path, text: str, recipe: str | None):
    config = load(written(tmp_path, text), otherwise="recrl")
    assert config.rl.recipe == recipe
    assert (config.rl.signal.kind == "listwise") == (recipe == "recrl")
    again = load(written(tmp_path, config.to_toml(), "again.toml"), otherwise="recrl")
    assert again == config


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_a_method(name: str, tmp_path: Path):
    config = load(written(tmp_path, ""), recipe=name)
    assert Method.make(config.rl).rollout_options.group_size >= 2
    recipe = recipes.read(name)
    assert recipe.about
    assert recipe.source


def test_the_example_loads_and_its_parts_exist(tmp_path: Path):
    config = load(written(tmp_path, example()))
    Method.make(config.rl)
    resolve_encoder(config.sid.encoder, where="sid.encoder")
    resolve_quantizer(config.sid.quantizer, where="sid.quantizer")
    assert (config.data.path, config.sid.path) == (Path("data/synthetic"), Path("sids/synthetic"))
    assert "recrl data synthetic --out data/synthetic" in example()


def test_the_key_list_holds_every_key_once():
    keys = [key.key for key in section_keys()]
    assert len(keys) == len(set(keys))
    assert set(keys) == leaves(RunConfig())


def test_the_key_list_tells_type_default_bounds_and_help():
    keys = {key.key: key for key in section_keys()}
    assert (keys["sft.lr"].type, keys["sft.lr"].default, keys["sft.lr"].bounds) == ("float", "0.001", "> 0")
    assert (keys["sid.levels"].default, keys["sid.levels"].bounds) == ("3", ">= 1, <= 7")
    assert keys["model.preset"].type == '"tiny" | "small" | "base"'
    assert keys["model.preset"].default == "not set"
    assert keys["eval.k"].type == "list of int"
    assert keys["rl.rewards"].default == '[{kind = "hit"}]'
    assert "NDCG@10" in keys["sft.patience"].help


def test_every_part_of_a_config_has_a_family():
    assert {key.key for key in section_keys() if key.type in ("part", "list of part")} == set(FAMILIES) - {"data"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_explained(family: str):
    for part in part_help(family):
        assert part.summary, f"{family} {part.kind} has no docstring"


def test_options_within_options_are_listed():
    fused = next(part for part in part_help("sid.encoder") if part.kind == "fused")
    assert "cooccurrence.window" in {key.key for key in fused.options}


def test_the_json_schema_has_docs_and_every_kind():
    schema = json_schema()
    assert set(schema["parts"]["rl.rollout"]) == set(ROLLOUTS)
    assert schema["parts"]["rl.rollout"]["beam"]["properties"]["group_size"]["description"] == "Responses a prompt."
    sft = schema["config"]["$defs"]["SftSection"]["properties"]
    assert sft["epochs"]["minimum"] == 1
    assert sft["ema_decay"]["description"].startswith("Average of the weights")


def test_options_without_a_kind_belong_to_the_default_part(tmp_path: Path) -> None:
    config = load(written(tmp_path, "[rl.signal]\nddof = 0\n"), ("rl.objective.clip_low=0.1",))
    assert config.rl.signal == Choice(kind="group_zscore", ddof=0)
    assert config.rl.objective.given == {"clip_low": 0.1}
    assert Method.make(config.rl).objective_options.clip_low == 0.1  # type: ignore[attr-defined]
