"""Megatron-core's layout of a decoder's weights, and folders by the slice; no rank is needed for either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config
from worlds import tiny_model

from recrl.backends.megatron.shape import DecoderShape
from recrl.backends.megatron.weights import WeightMap
from recrl.errors import UserError
from recrl.models.checkpoint import grow_vocabulary
from recrl.models.folder import INDEX, SINGLE, FolderReader, FolderWriter, grown
from recrl.models.presets import preset_model

VOCABULARY = 51


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every value a different one, so that no two places can be taken for each other."""
    start = 0
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = torch.arange(start, start + parameter.numel(), dtype=torch.float64).view(parameter.shape)
        start += parameter.numel()
    return tensors


class Counting:
    """Counts the values that are read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.read = 0

    def __call__(self, name: str) -> Any:
        counter = self

        class Slices:
            def __getitem__(self, place: Any) -> Tensor:
                part = counter.tensors[name][place]
                counter.read += part.numel()
                return part

        return Slices()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_parts_of_all_ranks_make_the_whole_again(kind: str, ranks: int) -> None:
    model = tiny_model(kind, VOCABULARY)
    tensors = tensors_of(model)
    weights = WeightMap(DecoderShape.of(model.config), ranks)
    found, shapes = {}, {}
    for name in weights.names:
        shards = [weights.cut(name, rank, tensors.__getitem__) for rank in range(ranks)]
        assert len({shard.shape for shard in shards}) == 1
        assert weights.is_sharded(name) == (ranks == 2 and not name.endswith("norm.weight"))
        shapes |= dict(weights.whole_shapes(name, tuple(shards[0].shape)))
        found |= dict(weights.join(name, shards))
    assert found.keys() == tensors.keys()
    assert shapes == {name: tuple(tensor.shape) for name, tensor in found.items()}
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_a_rank_reads_its_own_share_alone() -> None:
    model = tiny_model("qwen3", VOCABULARY)
    reader = Counting(tensors_of(model))
    weights = WeightMap(DecoderShape.of(model.config), 2)
    held = sum(weights.cut(name, 1, reader).numel() for name in weights.names)
    filled_up = model.config.hidden_size  # 51 tokens on two ranks are a row short
    assert reader.read == held - filled_up
    shared = sum(tensor.numel() for name, tensor in reader.tensors.items() if name.endswith("norm.weight"))
    assert held - shared == (sum(tensor.numel() for tensor in reader.tensors.values()) - shared + filled_up) / 2


def test_queries_stand_before_the_key_that_they_share() -> None:
    model = tiny_model("qwen3", VOCABULARY)  # 4 query heads and 2 key heads of 8
    tensors = tensors_of(model)
    weights = WeightMap(DecoderShape.of(model.config), 2)
    found = weights.cut("decoder.layers.0.self_attention.linear_qkv.weight", 1, tensors.__getitem__)
    query, key, value = (tensors[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv")
    assert torch.equal(found, torch.cat([query[16:32], key[8:16], value[8:16]]))


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_a_folder_of_many_files_is_what_transformers_loads(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind, VOCABULARY)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    shapes = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    FolderWriter(tmp_path, shapes, file_bytes=9000).write(iter(tensors.items()))
    model.config.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 9000 for file in files)
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).named_parameters())
    reader = FolderReader(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
        assert torch.equal(reader(name)[:], tensor), name


def test_a_small_folder_is_one_file(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, 2), "b": torch.zeros(4)}
    FolderWriter(tmp_path, [("a", (3, 2)), ("b", (4,))]).write(iter(tensors.items()))
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert torch.equal(FolderReader(tmp_path)("a")[1:2], torch.ones(1, 2))
    with pytest.raises(UserError, match="no tensor c"):
        FolderReader(tmp_path)("c")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"neither {SINGLE} nor {INDEX}"):
        FolderReader(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bias": True}, "attention has biases"),
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "of type linear"),
    ],
    ids=["bias", "activation", "window", "rotary"],
)
def test_a_decoder_that_is_not_built_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DecoderShape.of(Qwen3Config(**changes))


def test_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="type is llama"):
        DecoderShape.of(tiny_model("llama", VOCABULARY).config)


@pytest.mark.parametrize(
    ("changes", "ranks", "words"),
    [
        ({"num_key_value_heads": 2}, 4, "2 key heads"),
        ({"intermediate_size": 63}, 2, "63 MLP channels"),
        ({"vocab_size": 9, "pad_token_id": None}, 8, "none of 9 tokens"),
    ],
    ids=["heads", "intermediate", "vocabulary"],
)
def test_ranks_that_do_not_divide_a_model_are_refused(changes: dict[str, Any], ranks: int, words: str) -> None:
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 64} | changes
    with pytest.raises(UserError, match=words):
        DecoderShape.of(Qwen3Config(**sizes)).check(ranks)


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_grows_on_disk_as_it_does_in_memory(tmp_path: Path, tied: bool) -> None:
    model = preset_model("tiny", {"tie_word_embeddings": tied}, VOCABULARY, 0)
    model.save_pretrained(tmp_path)
    matrices = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    read = grown(FolderReader(tmp_path), matrices, VOCABULARY, VOCABULARY + 9, seed=5)
    grow_vocabulary(model, VOCABULARY + 9, 5)
    named = dict(model.named_parameters())
    for name in matrices:
        whole = named[name].detach()
        torch.testing.assert_close(read(name)[:], whole, rtol=0, atol=1e-7)
        assert torch.equal(read(name)[: VOCABULARY - 3], whole[: VOCABULARY - 3])
        for begin, end in ((40, 55), (VOCABULARY, VOCABULARY + 2), (VOCABULARY + 4, VOCABULARY + 9)):
            assert torch.equal(read(name)[begin:end], read(name)[:][begin:end])
    norm = "model.norm.weight"
    assert torch.equal(read(norm)[:], named[norm])
