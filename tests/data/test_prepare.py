"""Whole preparation: real data, faults, and what is left on disk."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recrl.data.dataset import fingerprint, load
from recrl.data.frequency import cold_items, dataset_counts
from recrl.data.prepare import build, prepare
from recrl.data.readers import READERS
from recrl.errors import ConfigError, UserError

ITEMS = [{"id": number, "title": f"Title {number}", "l2": "Cups"} for number in (1, 2, 3, 4)]
BEGIN, END = "<|sid_begin|>", "<|sid_end|>"


def amazon_folder(folder: Path, sequences: str = "7 1 2 3\n8 4\n", items: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "sequences.txt").write_text(sequences)
    (folder / "items.jsonl").write_text(
        items if items is not None else "".join(json.dumps(row) + "\n" for row in ITEMS)
    )
    return folder


def raw_folder(folder: Path, reviews: list[str], meta: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "reviews_Cups.json.gz").write_bytes(gzip.compress("".join(line + "\n" for line in reviews).encode()))
    (folder / "meta_Cups.json").write_text("".join(line + "\n" for line in meta))
    return folder


def review(user: str, item: str, time: Any) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time})


def minionerec_folder(folder: Path, rows: list[str], *, with_train: bool = False) -> Path:
    for name in ("index", "valid", "test", "info", *(["train"] if with_train else [])):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sids = {str(number): ["<a_0>", f"<b_{number}>"] for number in range(3)}
    items = {
        key: {"title": f"Item {key}", "description": "['One.', 'Two.']", "brand": "", "categories": ""} for key in sids
    }
    (folder / "index/Cups.index.json").write_text(json.dumps(sids))
    (folder / "index/Cups.item.json").write_text(json.dumps(items))
    (folder / "info/Cups_5.txt").write_text(
        "".join(f"{''.join(sid)}\tItem {key}\t{key}\n" for key, sid in sids.items())
    )
    table = "user_id,history_item_title,history_item_id,item_id\n" + "".join(row + "\n" for row in rows)
    for name in ("valid", "test", *(["train"] if with_train else [])):
        (folder / name / "Cups_5.csv").write_text(table)
    return folder


def sid(*code: int) -> str:
    return BEGIN + "".join(f"<s_{letter}_{number}>" for letter, number in zip("abc", code, strict=True)) + END


def recif_file(path: Path, prompt: Any, answer: str | None, *, train: bool = False, rows: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = prompt
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
        if train:
            messages.append(
                {"role": "assistant", "content": [{"type": "text", "text": f"<think>{sid(9, 9, 9)}</think>{answer}"}]}
            )
        messages = json.dumps(messages)
    metadata = {"uid": 5} | ({"answer": answer} if answer is not None and not train else {})
    pq.write_table(pa.table({"messages": [messages] * rows, "metadata": [json.dumps(metadata)] * rows}), path)
    return path.parent


def test_toys_and_beauty_have_the_published_sizes(shared):
    for name, sizes in {"beauty": (22_363, 12_101, 198_502), "toys": (19_412, 11_924, 167_597)}.items():
        data = build("amazon", shared / "data/amazon14" / name)
        summary = data.meta["summary"]
        assert (summary["users"], summary["items"], summary["interactions"]) == sizes
        assert summary["rows"] == {"train": sizes[0], "train_examples": 0, "valid": sizes[0], "test": sizes[0]}
        assert data.catalog.item_ids[11] == "12"
    # papers.md A-8, counted for Toys after leave-two-out: 13.3 % of the items occur at most 3 times, 25.8 % at most 4.
    counts = dataset_counts(data)
    assert [round(float((counts <= most).mean()), 3) for most in (3, 4)] == [0.133, 0.258]


def test_industrial_rows_are_as_minionerec_has_them(shared):
    data = build("minionerec", shared / "data/industrial/minionerec_format")
    assert (len(data.catalog), len(data.valid), len(data.test), len(data.train)) == (3_686, 4_532, 4_533, 0)
    assert data.meta["summary"]["warning"].startswith("no training rows")
    compact = (shared / "data/industrial/compact/test.tsv").read_text().splitlines()[1:]
    for row, line in enumerate(compact):
        user, history, target = line.split("\t")
        assert data.user_ids[data.test.users[row]] == user
        assert data.test.history[row].tolist() == [int(item) for item in history.split()]
        assert data.test.targets[row].tolist() == [int(target)]
    repeats = np.mean(
        [target[0] in history for history, target in zip(data.test.history, data.test.targets, strict=True)]
    )
    assert round(float(repeats), 3) == 0.028  # papers.md F


def test_what_is_written_is_what_is_read_back(tmp_path):
    meta = prepare("amazon", amazon_folder(tmp_path / "in"), tmp_path / "out/data")
    data = load(tmp_path / "out/data")
    assert data.user_ids == ["7", "8"]
    assert [row.tolist() for row in data.train.items] == [[0], [3]]
    assert (data.valid.targets.values.tolist(), data.test.targets.values.tolist()) == ([1], [2])
    assert data.meta["fingerprint"] == fingerprint(data)
    assert data.meta["history_limit"] == 20
    assert data.meta["summary"]["cold_items"] == meta["summary"]["cold_items"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data"]


def test_bad_rows_are_counted_and_named(tmp_path):
    source = amazon_folder(tmp_path / "in", "7 1 2 3\n8 4 99\n9\n\n7 1\n5 x\n")
    skipped = build("amazon", source, skip_bad_rows=True).meta["summary"]["skipped_rows"]
    assert skipped["count"] == 5
    assert skipped["reasons"] == {
        "item not in items.jsonl": 1,
        "a user without items": 1,
        "blank line": 1,
        "a second line for the same user": 1,
        "item id is not an integer": 1,
    }
    assert skipped["first"][0].endswith("sequences.txt, line 2: item not in items.jsonl (item 99)")


def test_raw_reviews_of_both_years_are_sorted_filtered_and_described(tmp_path):
    reviews = [review(user, item, time) for time, item in ((3, "A"), (1, "B"), (2, "C")) for user in ("u", "v")] + [
        review("w", "D", 1)
    ]
    meta = [
        "{'asin': 'A', 'title': 'Cup &amp; Saucer', 'categories': [['Home', 'Cups', 'Tea'], ['Gifts']]}",  # 2014
        json.dumps(
            {"asin": "B", "title": "Mug", "category": ["Home", "Mugs"], "description": ["One.", "Two."], "brand": "Ko"}
        ),
        json.dumps({"asin": "Z", "title": "not reviewed"}),
    ]
    data = build("amazon", raw_folder(tmp_path / "in", reviews, meta), options={"min_core": "2"})
    assert data.user_ids == ["u", "v"]
    assert data.catalog.item_ids == ["A", "B", "C"]
    assert data.catalog.titles == ["Cup & Saucer", "Mug", ""]
    assert data.catalog.categories == ["Cups", "Mugs", ""]
    assert data.catalog.descriptions == ["", "One. Two.", ""]
    assert [row.tolist() for row in data.test.history] == [[1, 2], [1, 2]]
    assert data.test.targets.values.tolist() == [0, 0]
    assert data.meta["notes"]["items_without_metadata"] == 2
    dropped = build("amazon", tmp_path / "in", options={"min_core": 2, "missing_title": "drop"})
    assert dropped.catalog.item_ids == ["A", "B"]


def test_raw_repeats_can_be_dropped(tmp_path):
    reviews = [review("u", "A", 1), review("u", "A", 1), review("u", "A", 2), review("u", "B", 1)]
    source = raw_folder(tmp_path / "in", reviews, ["{'asin': 'A'}"])
    assert build("amazon", source, options={"min_core": 1}).meta["summary"]["interactions"] == 4
    data = build("amazon", source, options={"min_core": 1, "drop_repeats": True})
    assert (data.meta["summary"]["interactions"], data.meta["notes"]["repeats_dropped"]) == (3, 1)


def test_minionerec_train_rows_are_samples_with_one_target(tmp_path):
    rows = ["u,\"['a, ''b']\",[0],1", 'u,x,"[0, 1]",2']
    data = build("minionerec", minionerec_folder(tmp_path / "in", rows, with_train=True))
    assert [row.tolist() for row in data.train.items] == [[0, 1], [0, 1, 2]]
    assert data.train.first_target.tolist() == [1, 2]
    assert dataset_counts(data).tolist() == [1, 1, 1]  # three interactions behind two sliding samples
    assert data.catalog.sids == [("<a_0>", "<b_0>"), ("<a_0>", "<b_1>"), ("<a_0>", "<b_2>")]
    assert data.catalog.descriptions[0] == "One. Two."


def test_recif_prompts_name_items_and_answers_become_targets_or_labels(tmp_path):
    recif_file(
        tmp_path / "video/video_test.parquet",
        f"Seen: {sid(2, 0, 0)}{sid(1, 5, 3)} next?",
        sid(1, 5, 3) + sid(7, 0, 1) + sid(7, 0, 1),
    )
    recif_file(
        tmp_path / "label_pred/label_pred_test.parquet", f"Seen: {sid(1, 5, 3)}. Will it be {sid(2, 0, 0)}?", "否"
    )
    recif_file(tmp_path / "sft_ad_rec.parquet", f"Seen: {sid(2, 0, 0)}", sid(2, 0, 0), train=True)
    data = build("recif", tmp_path)
    assert data.catalog.item_ids == [sid(1, 5, 3), sid(2, 0, 0), sid(7, 0, 1)]
    assert data.catalog.sids == [
        ("<s_a_1>", "<s_b_5>", "<s_c_3>"),
        ("<s_a_2>", "<s_b_0>", "<s_c_0>"),
        ("<s_a_7>", "<s_b_0>", "<s_c_1>"),
    ]
    test = data.test
    assert test.tasks == ["label_pred", "video"]
    assert test.prompts == ["Seen: <|item:0|>. Will it be <|item:1|>?", "Seen: <|item:1|><|item:0|> next?"]
    assert [row.tolist() for row in test.history] == [[0], [1, 0]]
    assert [row.tolist() for row in test.targets] == [[1], [0, 2]]
    assert test.labels.tolist() == [0, -1]
    assert data.user_ids == ["5"]
    assert (data.train_examples.tasks, data.train_examples.targets.values.tolist()) == (["ad"], [1])


def test_recif_validation_holds_out_whole_users(tmp_path):
    from recrl.data.recif_writer import write_recif

    write_recif({"users": 200, "interactions": 4_000}, tmp_path / "raw")
    data = build("recif", tmp_path / "raw", options={"valid_share": 0.1})
    train, valid, test = (set(part.users.tolist()) for part in (data.train_examples, data.valid, data.test))
    assert not train & valid
    assert not (train | valid) & test
    rows = len(data.train_examples) + len(data.valid)
    assert 0.05 * rows < len(data.valid) <= 0.1 * rows
    tasks = {"video", "ad", "product", "interactive", "label_cond", "label_pred"}
    assert set(data.test.tasks) == set(data.train_examples.tasks) == tasks
    labelled = np.array([task == "label_pred" for task in data.test.tasks])
    assert ((data.test.labels >= 0) == labelled).all()
    assert data.test.labels[labelled].mean() == 0.5
    assert data.test.targets.lengths.max() <= 10


def test_cold_items_are_the_rarest_and_ties_do_not_follow_the_catalogue():
    data = build("synthetic", None, options={"users": 100, "interactions": 400, "items": 200})
    counts, ids = dataset_counts(data), data.catalog.item_ids
    cold = np.flatnonzero(cold_items(counts, ids))
    assert len(cold) == 40
    assert counts[cold].max() <= np.delete(counts, cold).min()
    assert cold.tolist() != np.sort(np.argsort(counts, kind="stable")[:40]).tolist()
    assert np.flatnonzero(cold_items(counts, ids, seed=1)).tolist() != cold.tolist()


def truncated(path: Path, keep: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def _bad_items(text: str):
    good = json.dumps(ITEMS[0]) + "\n"
    return lambda folder: ("amazon", amazon_folder(folder, items=good + text + "\n"))


def _bad_raw(line: str):
    return lambda folder: ("amazon", raw_folder(folder, [review("u", "A", 1), line], ["{'asin': 'A'}"]))


def _bad_mini(row: str):
    return lambda folder: ("minionerec", minionerec_folder(folder, ["u,x,[0],1", row]))


def _bad_recif(prompt: Any, answer: str | None, task: str = "video"):
    return lambda folder: ("recif", recif_file(folder / f"{task}_test.parquet", prompt, answer))


def _truncated_gzip(folder: Path):
    raw_folder(folder, [review("u", f"A{number}", number) for number in range(500)], ["{'asin': 'A'}"])
    truncated(folder / "reviews_Cups.json.gz")
    return "amazon", folder


def _truncated_parquet(folder: Path):
    recif_file(folder / "video_test.parquet", sid(1, 1, 1), sid(1, 1, 1), rows=100)
    truncated(folder / "video_test.parquet")
    return "recif", folder


def _no_messages(folder: Path):
    folder.mkdir()
    pq.write_table(pa.table({"text": ["x"]}), folder / "video_test.parquet")
    return "recif", folder


def _other_info(folder: Path):
    minionerec_folder(folder, ["u,x,[0],1"])
    (folder / "info/Cups_5.txt").write_text("<a_9><b_9>\tItem\t0\n")
    return "minionerec", folder


def _index_without_an_item(folder: Path):
    minionerec_folder(folder, ["u,x,[0],1"])
    (folder / "index/Cups.index.json").write_text('{"0": ["<a_0>"]}')
    return "minionerec", folder


def _not_utf8(folder: Path):
    amazon_folder(folder)
    (folder / "sequences.txt").write_bytes(b"1 1 2 3\n\xff\xfe 1\n")
    return "amazon", folder


def _two_sets(folder: Path):
    minionerec_folder(folder, ["u,x,[0],1"])
    (folder / "index/Mugs.item.json").write_text("{}")
    return "minionerec", folder


FAULTS = {
    "missing folder": (lambda folder: ("amazon", folder / "no"), "is not a folder|source .*no"),
    "a folder without files": (lambda folder: ("amazon", folder.parent), "no JSON file"),
    "empty sequences": (lambda folder: ("amazon", amazon_folder(folder, "")), "sequences.txt holds no usable row"),
    "empty items": (lambda folder: ("amazon", amazon_folder(folder, items="")), "items.jsonl holds no usable row"),
    "bad JSON line": (_bad_items("{"), r"items.jsonl, line 2: not JSON"),
    "JSON but no object": (_bad_items("[1]"), "line 2: not a JSON object"),
    "item id missing": (_bad_items('{"title": "x"}'), "line 2: item id is not an integer"),
    "duplicate item id": (_bad_items('{"id": 1, "title": "again"}'), r"line 2: duplicate item id \(id 1\)"),
    "a title of the wrong type": (_bad_items('{"id": 2, "title": 3}'), "line 2: a field has the wrong type"),
    "item not in the catalogue": (
        lambda folder: ("amazon", amazon_folder(folder, "7 1 5\n")),
        r"line 1: item not in items.jsonl \(item 5\)",
    ),
    "not UTF-8": (_not_utf8, "not UTF-8"),
    "truncated gzip": (_truncated_gzip, "broken gzip after line"),
    "raw line that is no object": (_bad_raw("nonsense("), "line 2: not a JSON object"),
    "raw time that is no integer": (_bad_raw(review("u", "A", "soon")), "line 2: unixReviewTime is not an integer"),
    "raw review without item": (_bad_raw(review("u", "", 1)), "line 2: a review without user or item"),
    "raw core too high": (_bad_raw(review("u", "A", 2)), "5-core of 2 interactions is empty"),
    "history that is code": (_bad_mini("u,x,__import__('os').getcwd(),1"), "line 3: history_item_id is not a list"),
    "history of unknown items": (_bad_mini("u,x,[77],1"), r"line 3: item not in the item file \(item 77\)"),
    "unknown target": (_bad_mini("u,x,[0],x"), "line 3: item not in the item file"),
    "empty history": (_bad_mini("u,x,[],1"), "line 3: empty history"),
    "short CSV row": (_bad_mini("u,x"), "line 3: wrong number of fields"),
    "info that differs": (_other_info, "line 1: SID differs from the index"),
    "index without an item": (_index_without_an_item, "differ in 2 items"),
    "two data sets in one folder": (_two_sets, "Cups.item.json, Mugs.item.json"),
    "truncated parquet": (_truncated_parquet, "can't read .*video_test.parquet"),
    "parquet without messages": (_no_messages, "has columns text"),
    "no RecIF file": (lambda folder: ("recif", folder.parent), "holds no RecIF file"),
    "messages that are no JSON": (_bad_recif([], "x"), "line 1"),
    "a broken SID": (_bad_recif(f"{BEGIN}<s_a_1>{END}", sid(1, 1, 1)), "line 1: a broken SID"),
    "no target": (_bad_recif("hello", "nothing"), "line 1: not one to ten targets"),
    "eleven targets": (
        _bad_recif("hello", "".join(sid(1, 1, n) for n in range(11))),
        r"line 1: not one to ten targets \(11\)",
    ),
    "no answer": (_bad_recif("hello", None), "line 1: no answer"),
    "neither yes nor no": (_bad_recif(sid(1, 1, 1), "perhaps", "label_pred"), "line 1: an answer that is neither"),
    "no candidate": (_bad_recif("hello", "是", "label_pred"), "line 1: no candidate"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_gives_one_clear_error_and_leaves_nothing_behind(name, tmp_path):
    make, words = FAULTS[name]
    kind, source = make(tmp_path / "in")
    with pytest.raises(UserError, match=words) as caught:
        prepare(kind, source, tmp_path / "out/data")
    assert caught.value.exit_code == 2
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path):
    source, out = amazon_folder(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        prepare("amazon", source, out)
    assert (out / "mine.txt").exists()
    prepare("amazon", source, out, overwrite=True)
    assert not (out / "mine.txt").exists()
    assert load(out).user_ids == ["7", "8"]


def test_the_source_is_never_overwritten(tmp_path):
    source = amazon_folder(tmp_path / "in")
    for out in (source, tmp_path):
        with pytest.raises(ConfigError, match="holds the source"):
            prepare("amazon", source, out, overwrite=True)
    assert (source / "sequences.txt").exists()


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        prepare("amazon", amazon_folder(tmp_path / "in"), tmp_path / "file/out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "amazing"}, "did you mean 'amazon'"),
        ({"options": {"min_cor": 3}}, "did you mean 'min_core'"),
        ({"options": {"min_core": "many"}}, "valid integer"),
        ({"options": {"drop_repeats": True}}, "no times to tell repeats"),
        ({"options": {"min_core": 9}}, "9-core of 4 interactions is empty"),
        ({"history_limit": 0}, "history limit 0"),
        ({"split": "chronological"}, "no timestamps"),
    ],
    ids=["format", "option", "value", "repeats", "core", "limit", "split"],
)
def test_wrong_choices_are_refused(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        build(**{"kind": "amazon", "source": amazon_folder(tmp_path / "in")} | change)


def test_a_source_that_is_split_takes_no_split(tmp_path):
    with pytest.raises(ConfigError, match="--split leave-one-out"):
        build("minionerec", minionerec_folder(tmp_path / "in", ["u,x,[0],1"]), split="leave-one-out")


def test_made_data_take_no_source_and_files_need_one(tmp_path):
    for kind, source in (("synthetic", tmp_path), *((kind, None) for kind in READERS if kind != "synthetic")):
        with pytest.raises(UserError, match="source"):
            build(kind, source)
