"""SID tokens in tokenizers, ours and a byte-level BPE's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from worlds import tiny_index

from recrl.errors import UserError
from recrl.models.presets import preset_tokenizer
from recrl.sids.codes import with_suffixes
from recrl.sids.tokens import add_sid_tokens, sid_token_ids

TEXTS = ["a red hat", "a blue hat for winter", "<b_1> as text"]


@pytest.fixture(params=[0, 300], ids=["sids-alone", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return preset_tokenizer(TEXTS, request.param)


def test_ids_decode_to_the_sid_and_its_text_encodes_to_them(tokenizer: PreTrainedTokenizerBase) -> None:
    index = tiny_index()
    assert add_sid_tokens(tokenizer, index) == len(index.vocabulary())
    rows = sid_token_ids(tokenizer, index)
    for item in range(len(index)):
        names = index.tokens(item)
        assert tokenizer.convert_ids_to_tokens(rows[item].tolist()) == names
        assert tokenizer("".join(names), add_special_tokens=False)["input_ids"] == rows[item].tolist()
        assert tokenizer.decode(rows[item]).replace(" ", "") == "".join(names)


def test_adding_twice_adds_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    add_sid_tokens(tokenizer, tiny_index())
    size = len(tokenizer)
    assert add_sid_tokens(tokenizer, tiny_index()) == 0
    assert len(tokenizer) == size


def test_only_what_is_missing_is_added(tokenizer: PreTrainedTokenizerBase) -> None:
    codes = np.array([[0, 0], [1, 1]], np.int32)
    add_sid_tokens(tokenizer, with_suffixes(codes, (2, 2)))
    assert add_sid_tokens(tokenizer, with_suffixes(codes, (3, 2))) == 1
    assert tokenizer.convert_tokens_to_ids("<a_2>") == len(tokenizer) - 1


def test_a_tokenizer_of_another_index_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    add_sid_tokens(tokenizer, tiny_index(size=4))
    with pytest.raises(UserError, match=r"lacks 3 SID tokens, <a_4>"):
        sid_token_ids(tokenizer, tiny_index(size=5))


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    index = tiny_index()
    add_sid_tokens(tokenizer, index)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == len(tokenizer)
    before, after = sid_token_ids(tokenizer, index), sid_token_ids(again, index)
    assert np.array_equal(before.values, after.values)
    text = "<a_0><b_1><c_2><d_0>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (0, 1, 2)
