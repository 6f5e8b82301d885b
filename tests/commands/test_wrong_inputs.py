"""Every wrong input gets one clear message and exit code 2, and leaves the working folder as it was."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_world import ITEMS, MODEL, build_small_world

from recrl.commands.main import main

STEP = Path("runs/small/sft/checkpoints")
UNWRITABLE = "run.toml/below"  # below a file; a folder without the right to write stops everybody but root
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
NO_NPU = pytest.mark.skipif(hasattr(torch, "npu"), reason="this machine has an NPU")


@dataclass(frozen=True)
class Case:
    """A command line (blanks part its words, a leading name is what the test is called), and what it must say."""

    name: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    before: Callable[[], None] = lambda: None
    code: int = 2
    marks: tuple[pytest.MarkDecorator, ...] = ()


def case(name: str, line: str, *says: str, before: Callable[[], None] = lambda: None, **more: object) -> Case:
    return Case(name, tuple(line.split()), says, before, **more)  # type: ignore[arg-type]


def setting(name: str, value: str, *says: str, command: str = "config show run.toml", **more: object) -> Case:
    """A command with one ``--set``."""
    return Case(name, (*command.split(), "--set", value), says, **more)  # type: ignore[arg-type]


def text(path: str, content: str) -> Callable[[], None]:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)

    return write


def cut(pattern: str) -> Callable[[], None]:
    """Leave the first half of every file that fits."""

    def halve() -> None:
        found = list(Path().glob(pattern))
        assert found, pattern
        for path in found:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return halve


def replaced(path: str, old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        found = Path(path).read_text()
        assert old in found
        Path(path).write_text(found.replace(old, new))

    return change


def model(lines: str) -> Callable[[], None]:
    """Other lines in run.toml's section [model]."""
    return replaced("run.toml", MODEL, lines)


def gone(path: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def broken_gzip() -> None:
    packed = gzip.compress(b'{"reviewerID": "u", "asin": "i", "unixReviewTime": 1}\n' * 100)
    Path("gz").mkdir()
    Path("gz/reviews_Toys.json.gz").write_bytes(packed[: len(packed) // 2])
    Path("gz/meta_Toys.json").write_text('{"asin": "i", "title": "Cup"}\n')


def truncated_recif() -> None:
    Path("recif").mkdir()
    pq.write_table(pa.table({"messages": ["[]"] * 100}), "recif/video_test.parquet")
    cut("recif/*.parquet")()


def without_rows(path: str) -> Callable[[], None]:
    return lambda: pq.write_table(pq.read_table(path).slice(0, 0), path)


def recif_without_messages() -> None:
    Path("recif").mkdir()
    pq.write_table(pa.table({"text": ["hello"]}), "recif/video_test.parquet")


def decoder_of_nan() -> None:
    path = Path("decoder/model.safetensors")
    weights = load_file(path)
    weights["model.embed_tokens.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def old_index() -> None:
    """SIDs whose codes were changed after they were written."""
    path = Path("sids/codes.safetensors")
    arrays = load_file(path)
    arrays["codes"][0, 0] = (arrays["codes"][0, 0] + 1) % 4
    save_file(arrays, path)


def two_runs_on_two_data_sets() -> None:
    shutil.copytree("runs/small", "runs/second")
    replaced("runs/second/sft/config.toml", 'path = "data"', 'path = "other"')()
    replaced("runs/second/sft/config.toml", 'path = "sids"', 'path = "other-sids"')()


CONFIG = [
    case("no config", "config show missing.toml", "no config at missing.toml", "recrl config example"),
    case("config is a folder", "config show data", "data is a folder"),
    case("bad TOML", "config show bad.toml", "bad.toml is not TOML", before=text("bad.toml", "[sft\nlr = 1")),
    case(
        "config is not text",
        "config show bad.toml",
        "bad.toml is not TOML",
        before=lambda: Path("bad.toml").write_bytes(b"\xff\xfe\x00"),
    ),
    case("unknown section", "config show bad.toml", "sftt", "did you mean 'sft'", before=text("bad.toml", "[sftt]\n")),
    case("a value for a section", "config show bad.toml", "bad.toml: sft = 3", before=text("bad.toml", "sft = 3\n")),
    case("a list for a section", "config show bad.toml", "bad.toml: sft", before=text("bad.toml", "[[sft]]\nlr = 1\n")),
    setting("unknown key", "sft.epoch=3", "run.toml: sft.epoch = 3", "did you mean 'epochs'"),
    setting("unknown key two deep", "sft.augment.crops=0.5", "sft.augment.crops", "did you mean 'crop'"),
    setting("wrong type", "sft.lr=fast", "sft.lr = 'fast'", "valid number"),
    setting("a float for an int", "sft.epochs=1.5", "sft.epochs = 1.5", "valid integer"),
    setting("below its bound", "sft.lr=0", "sft.lr = 0", "greater than 0"),
    setting("above its bound", "model.dropout=1", "model.dropout = 1", "less than 1"),
    setting("not finite", "sft.lr=inf", "sft.lr = inf", "finite"),
    setting("not a number", "rl.lr=nan", "rl.lr = nan"),
    setting("unknown choice", "backend.dtype=float16", "backend.dtype = 'float16'", "'bfloat16'"),
    setting("a run name that leaves its folder", "run.name=../away", "run.name = '../away'"),
    setting("preset and path", "model.path=decoder", "preset and path exclude each other"),
    setting("k above the beams", "eval.k=[1,50]", "k = 50", "beam_width is 20"),
    setting("no k", "eval.k=[]", "eval"),
    setting("unknown task", "sft.tasks.nexts=1", "no task 'nexts'", "did you mean 'next'"),
    setting("negative weight", "sft.tasks.next=-1", "weight of task 'next' is negative"),
    setting("unknown task of RL", "rl.tasks.following=1", "no task 'following'"),
    setting("no reward", "rl.rewards=[]", "rl.rewards", "at least 1"),
    setting("a part without its kind", "rl.rewards=[{}]", "rl.rewards.0.kind"),
    setting("a number for a part", "memory.scorer=3", "memory.scorer = 3", "a part is its kind"),
    setting(
        "a floor that is none",
        "memory.floor=1e-300",
        "memory.floor = 1e-300",
        "greater than or equal to 0.0000",
    ),
    setting(
        "a scorer that scores every item",
        "memory.scorer=popularity",
        "memory.scorer.kind = 'popularity'",
        "known: hybrid_knn, item_knn, text_knn",
        command="sft run.toml --set memory.weight=1 --dry-run",
    ),
    setting("--set without a value", "sft.lr", "--set sft.lr", "section.key=value"),
    setting("--set without a section", "lr=1", "--set lr=1", "section.key=value"),
    setting("--set below a value", "run.name.x=1", "run.name = {'kind': 'small', 'x': 1}", "valid string"),
    case("unknown recipe", "config show run.toml --recipe openonerec", "openonerec", "did you mean 'openonerec_rl'"),
    case("no recipe file", "config show run.toml --recipe mine.toml", "mine.toml", "no such file"),
    case(
        "a recipe with an unknown key",
        "config show run.toml --recipe mine.toml",
        "mine.toml: rl.step = 3",
        "did you mean 'steps'",
        before=text("mine.toml", "[rl]\nstep = 3\n"),
    ),
    case(
        "a recipe for a config without its section",
        "config show bad.toml --recipe openonerec_rl",
        "bad.toml: rl = 3",
        before=text("bad.toml", "rl = 3\n"),
    ),
    setting("a momentum above 1", "sft.betas=[0.9,2]", "sft.betas.1 = 2", "less than 1"),
    setting("more threads than any machine", "run.threads=100000", "run.threads = 100000"),
    setting("a recipe that is no name", "rl.recipe=3", "rl.recipe = 3"),
    case("unknown command", "trian run.toml", "trian"),
    case("unknown option", "sft run.toml --speed 3", "--speed"),
    case("no argument", "sft", "CONFIG"),
]

DATA = [
    case("unknown format", "data prepare movielens raw --out new", "movielens", "amazon"),
    case("no source", "data prepare amazon missing --out new", "missing", "not a folder"),
    case("source is a file", "data prepare amazon run.toml --out new", "run.toml", "not a folder"),
    case("no items", "data prepare amazon raw --out new", "items.jsonl is not there", before=gone("raw/items.jsonl")),
    case(
        "a line that is not JSON",
        "data prepare amazon raw --out new",
        "items.jsonl, line 2",
        "not JSON",
        before=text("raw/items.jsonl", '{"id": 1, "title": "Cup"}\n{"id": 2,\n'),
    ),
    case(
        "interaction with an unknown item",
        "data prepare amazon raw --out new",
        "sequences.txt, line 1",
        "item 77",
        before=text("raw/sequences.txt", "1 1 2 77\n"),
    ),
    case(
        "an empty file",
        "data prepare amazon raw --out new",
        "sequences.txt holds no usable row",
        before=text("raw/sequences.txt", ""),
    ),
    case("truncated gzip", "data prepare amazon gz --out new", "broken gzip", before=broken_gzip),
    case("a core that leaves nothing", "data prepare amazon raw --out new --min-core 99", "99"),
    case("times where there are none", "data prepare amazon raw --out new --split chronological", "chronological"),
    case("output exists", "data prepare amazon raw --out sids", "sids exists already", "--overwrite"),
    case("output can't be written", f"data prepare amazon raw --out {UNWRITABLE}/new", "can't write"),
    case("output holds the source", "data prepare amazon raw --out . --overwrite", "holds the source"),
    case("option without a value", "data prepare amazon raw --out new -O min_core", "KEY=VALUE"),
    case("unknown option of a reader", "data prepare amazon raw --out new -O min_cor=3", "did you mean 'min_core'"),
    case("option of the wrong type", "data prepare amazon raw --out new -O min_core=few", "min_core", "few"),
    case("history limit of 0", "data prepare amazon raw --out new --history-limit 0", "--history-limit"),
    case("truncated parquet", "data prepare recif recif --out new", "video_test.parquet", before=truncated_recif),
    case(
        "parquet without its column",
        "data prepare recif recif --out new",
        "video_test.parquet",
        "messages",
        before=recif_without_messages,
    ),
    case("nothing of the format", "data prepare recif raw --out new", "raw"),
    case("nothing of MiniOneRec", "data prepare minionerec raw --out new", "index"),
    case("too few interactions", "data synthetic --out new --users 100 --interactions 10", "at least 300"),
    case("shares above the whole", "data synthetic --out new -O transition=0.9 -O taste=0.9", "must not pass 1"),
    case("a marketplace of no items", "data synthetic --out new --items 0", "items"),
    case("a split that RecIF has not", "data synthetic --out new --recif --split chronological", "--recif"),
]

BUILD = "sid build run.toml --set sid.path=new"
SID = [
    setting("SIDs of no data", "data.path=nowhere", "no prepared data set at nowhere", command=BUILD),
    case("SIDs exist", "sid build run.toml", "sids exists already", "--overwrite"),
    setting("unknown encoder", "sid.encoder.kind=tfidf", "sid.encoder.kind", "did you mean 'tfidf-svd'", command=BUILD),
    setting("unknown quantiser", "sid.quantizer.kind=rqvae", "did you mean 'rq-vae'", command=BUILD),
    setting("unknown option of an encoder", "sid.encoder.titel_dim=3", "did you mean 'title_dim'", command=BUILD),
    setting("unknown option within an option", 'sid.encoder={kind="fused",cooccurrence={windows=3}}',
            "sid.encoder.cooccurrence.windows = 3", "did you mean 'window'", command=BUILD),
    setting("option of a quantiser out of range", "sid.quantizer.max_iter=0", "sid.quantizer.max_iter", command=BUILD),
    setting("no SIDs of its own", "sid.quantizer.kind=given", "has no SIDs of its own", command=BUILD),
    setting("a text encoder that reads no text", 'sid.encoder={kind="fused",text={kind="cooccurrence"}}',
            "sid.encoder.text.kind", "no text encoder", command=BUILD),
    setting("an encoder that is not there", 'sid.encoder={kind="hf",path="nowhere"}', "nowhere", command=BUILD),
    setting("an encoder without its path", 'sid.encoder={kind="hf"}', "sid.encoder.path", "required", command=BUILD),
    setting("NaN in embeddings", 'sid.encoder={kind="hf",path="decoder"}', "not finite", "first item",
            command=BUILD, before=decoder_of_nan),
    setting("an encoder on a device that is not there", 'sid.encoder={kind="hf",path="decoder",device="cuda"}', "cuda",
            command=BUILD, marks=(NO_CUDA,)),
    case("truncated items", "sid build run.toml", "can't read data/items.parquet", before=cut("data/items.parquet")),
    case("no training file", "sid build run.toml", "data/train.parquet", before=gone("data/train.parquet")),
    case("a data set of another version", "sid build run.toml", "format version 9",
         before=replaced("data/dataset.json", '"version": 1', '"version": 9')),
    case("files of two data sets", "sid build run.toml", "data set at data is broken", "fingerprint",
         before=lambda: (gone("data/train.parquet")(), Path("other/train.parquet").rename("data/train.parquet"))),
    case("a broken dataset.json", "sid build run.toml", "dataset.json is broken", before=cut("data/dataset.json")),
    case("assign: no index", "sid assign nowhere new.jsonl --out new", "nowhere"),
    case("assign: no items", "sid assign sids new.jsonl --out new", "can't read new.jsonl"),
    case("assign: not JSON", "sid assign sids new.jsonl --out new", "new.jsonl:1", before=text("new.jsonl", "{\n")),
    case("assign: no text", "sid assign sids new.jsonl --out new", "has no text",
         before=text("new.jsonl", '{"item_id": "n1"}\n')),
    case("assign: a known item", "sid assign sids new.jsonl --out new", "have a SID already",
         before=text("new.jsonl", '{"item_id": "1", "title": "Cup"}\n')),
    case("assign: output exists", "sid assign sids new.jsonl --out data", "data exists already",
         before=text("new.jsonl", '{"item_id": "n1", "title": "Cup"}\n')),
    case("assign: an index without a model", "sid assign sids new.jsonl --out new", "model.safetensors",
         before=lambda: (gone("sids/model.safetensors")(), text("new.jsonl", '{"item_id": "n", "title": "Cup"}\n')())),
]  # fmt: skip


def fresh(name: str, line: str, *says: str, before: Callable[[], None] = lambda: None, **more: object) -> Case:
    """SFT of run.toml under a name of its own; ``line`` is what comes behind."""
    return case(name, f"sft run.toml --set run.name=fresh {line}", *says, before=before, **more)


MANY = "recommend --run runs/small --out o.parquet"
SFT = [
    fresh("weights shared out over one process", "--set backend.engine=fsdp2", "one process was started", "torchrun"),
    fresh("half a model", "--set backend.engine=megatron --set backend.tensor_parallel=2", "1 process was started"),
    fresh("tensor parallel without Megatron", "--set backend.tensor_parallel=2", 'needs engine = "megatron"'),
    fresh("no data", "--set data.path=nowhere", "no prepared data set at nowhere", "recrl data prepare"),
    fresh("no SIDs", "--set sid.path=nowhere", "no SID index at nowhere", "recrl sid build"),
    fresh("SIDs of another data set", "--set sid.path=other-sids", "belong to another data set"),
    fresh("truncated SIDs", "", "SID index at sids is broken", before=cut("sids/codes.safetensors")),
    fresh("SIDs that were changed", "", "do not match their fingerprint", before=old_index),
    fresh("a broken sid.json", "", "SID index at sids is broken", before=cut("sids/sid.json")),
    fresh("truncated training rows", "", "can't read data/train.parquet", before=cut("data/train.parquet")),
    fresh("no training rows", "--set data.path=untrained --set sid.path=untrained-sids", "no training rows"),
    fresh("no validation rows", "", "no validation examples", before=without_rows("data/valid.parquet")),
    fresh("unknown teacher", "--set sft.teacher.scorer.kind=knn --set sft.teacher.weight=1", "did you mean 'text_knn'"),
    fresh("no model", "", "[model] names no model",
          before=model("")),
    fresh("no model folder", "", "no model at nowhere", before=model('path = "nowhere"')),
    fresh("a model that is not one", "", "can't load the model at decoder", before=lambda: (
        model('path = "decoder"')(),
        text("decoder/config.json", '{"model_type": "no-such-type"}')())),
    fresh("truncated weights", "", "can't load the model at decoder", before=lambda: (
        model('path = "decoder"')(),
        cut("decoder/model.safetensors")())),
    fresh("unknown key of a shape", "--set model.shape.hidden=8", "model.shape.hidden", "no such key"),
    fresh("heads that do not fit", "--set model.shape.num_key_value_heads=3", "multiple of num_key_value_heads"),
    fresh("a width of 0", "--set model.shape.hidden_size=0", "model.shape"),
    fresh("no such accelerator", "--set backend.device=cuda", "backend.device = 'cuda'", "recrl doctor",
          marks=(NO_CUDA,)),
    fresh("no NPU", "--set backend.device=npu", "backend.device = 'npu'", marks=(NO_NPU,)),
    fresh("a device without data", "--set backend.device=meta", "backend.device = 'meta'"),
    fresh("no such device", "--set backend.device=abacus", "backend.device = 'abacus'"),
    fresh("more beams than items", "--set eval.beam_width=50", "eval.beam_width = 50", f"{ITEMS} items"),
    fresh("a text task without words", "--set sft.tasks.sid_to_title=1", "text_vocab_size"),
    fresh("a text template without words", "--set prompts.template=instruct", "text_vocab_size"),
    fresh("tasks that weigh nothing", "--set sft.tasks.next=0", "sft.tasks"),
    fresh("a task that the data lack", "--set sft.tasks={recif=1}", "sft.tasks"),
    fresh("runs can't be written", f"--set run.dir={UNWRITABLE}", "can't write"),
    case("the run exists", "sft run.toml", "runs/small/sft exists already", "--resume", "--overwrite"),
    case("resumed with another config", "sft run.toml --resume --set sft.lr=0.5", "another config", "lr"),
    case("neither config nor run", "sft missing.toml --resume", "no config at missing.toml"),
    case("a dry run of an unknown teacher", "sft run.toml --dry-run --set sft.teacher={weight=1,scorer={kind=\"knn\"}}",
         "sft.teacher.scorer", "item_knn"),
]  # fmt: skip

RUN = "rl run.toml"
RL = [
    case("RL without SFT", "rl run.toml --set run.name=fresh", "no checkpoint below runs/fresh/sft"),
    case("RL from nothing", "rl run.toml --set rl.init=nowhere", "no model at nowhere"),
    case("RL from a model of other SIDs", "rl run.toml --set rl.init=decoder", "tokenizer lacks", "SID tokens"),
    case("RL from a damaged checkpoint", "rl run.toml", "no checkpoint below runs/small/sft", "damaged",
         before=cut("runs/small/sft/checkpoints/*/trainer.safetensors")),
    case("RL without training rows", "rl run.toml --set data.path=untrained --set sid.path=untrained-sids",
         "RL has nothing to ask for"),
    setting("unknown rollout", "rl.rollout.kind=beams", "did you mean 'beam'", command=RUN),
    setting("a dry run of an unknown rollout", "rl.rollout.kind=beams", "did you mean 'beam'",
            command=f"{RUN} --dry-run"),
    case("a dry run of a memory's unknown option", f"{RUN} --dry-run --set memory.weight=4 --set memory.scorer.windw=2",
         "memory.scorer.windw"),
    case("text that weighs less than nothing",
         f"{RUN} --dry-run --set memory.weight=4 --set memory.scorer.text_weight=-1", "memory.scorer.text_weight"),
    setting("unknown reward", 'rl.rewards=[{kind="hits"}]', "rl.rewards.0", "did you mean 'hit'", command=RUN),
    setting("unknown signal", "rl.signal.kind=zscore", "rl.signal.kind", "'group_zscore'", command=RUN),
    setting("unknown objective", "rl.objective.kind=grp", "did you mean 'grpo'", command=RUN),
    setting("unknown option of a rollout", "rl.rollout.group=4", "did you mean 'group_size'", command=RUN),
    setting("a group of one", "rl.rollout.group_size=1", "rl.rollout.group_size", command=RUN),
    setting("unknown option of a reward", 'rl.rewards=[{kind="hit",weigth=2}]', "did you mean 'weight'", command=RUN),
    setting("option of a signal out of range",
            'rl.signal={kind="group_zscore",ddof=2}', "rl.signal.ddof", command=RUN),
    setting("wrong type of an objective's option", 'rl.objective={kind="grpo",clip_low="much"}',
            "rl.objective.clip_low", command=RUN),
    setting("a temperature of 0", 'rl.rollout={kind="sample",temperature=0}', "rl.rollout.temperature", command=RUN),
    setting("RL on titles without words", "rl.tasks.sid_to_title=1", "text_vocab_size", command=RUN),
    setting("RL on RecIF's rows", "rl.tasks.recif=1", "no training rows for 'recif'", command=RUN),
    setting("RL on text without words", "rl.tasks.titles_to_sid=1", "text_vocab_size", command=RUN),
    setting("RL without a task", "rl.tasks.next=0", "rl.tasks gives no rows", command=RUN),
]  # fmt: skip

USE = [
    case("doctor: an argument that it has not", "doctor all", "all"),
    case("eval: no path", "eval", "PATH"),
    case("eval: no run", "eval runs/nobody", "nothing to evaluate at runs/nobody"),
    case("eval: no run at all", "eval data", "nothing to evaluate at data"),
    case("eval: unknown split", "eval runs/small --split train", "train"),
    case("eval: the data moved", "eval runs/small", "no prepared data set at data", before=gone("data")),
    case("eval: the SIDs moved", "eval runs/small", "no SID index at sids", before=gone("sids")),
    case("eval: truncated test rows", "eval runs/small", "data/test.parquet", before=cut("data/test.parquet")),
    case("eval: no config in the run", "eval runs/small", "config.toml", before=gone("runs/small/sft/config.toml")),
    case("eval: runs on two data sets", "eval runs/small runs/second", "like with like",
         before=two_runs_on_two_data_sets),
    case("eval: a damaged checkpoint", "eval runs/small", "no checkpoint below", "damaged",
         before=cut("runs/small/sft/checkpoints/*/model/model.safetensors")),
    case("recommend: a damaged checkpoint by name", "recommend --user 1 --run runs/small/sft/checkpoints/step-000002",
         "runs/small/sft/checkpoints/step-000002 is damaged", code=1,
         before=cut("runs/small/sft/checkpoints/*/model/model.safetensors")),
    Case("recommend: no history", ("recommend", "--run", "runs/small", "--user", " "), ("history is empty",)),
    Case("recommend: two unknown items", ("recommend", "--run", "runs/small", "--user", "1 x77 y88"),
         ("'x77' is not in the catalogue", "1 more")),
    case("recommend: k above the items", f"recommend --run runs/small --user 1 --k {ITEMS + 1}", f"{ITEMS} items"),
    case("recommend: k of 0", "recommend --run runs/small --user 1 --k 0", "--k 0"),
    case("recommend: k is no number", "recommend --run runs/small --user 1 --k ten", "--k"),
    case("recommend: no user", "recommend --run runs/small", "--user"),
    case("recommend: a user and users", "recommend --user 1 --users users.txt --out o.parquet", "either --user"),
    case("recommend: users and nowhere to", "recommend --users users.txt", "--users with --out"),
    case("recommend: no file of users", f"{MANY} --users nobody.txt", "can't read nobody.txt", "USER ITEM ITEM"),
    case("recommend: nobody", f"{MANY} --users users.txt", "users.txt names no user", before=text("users.txt", "\n")),
    case("recommend: an item that is not there", f"{MANY} --users users.txt", "user 'bob' took item 'x77'",
         before=text("users.txt", "ann 1 2\nbob 1 x77\n")),
    case("recommend: a user without items", f"{MANY} --users users.txt", "user 'bob' has no history",
         before=text("users.txt", "ann 1 2\nbob\n")),
    case("recommend: parquet without histories", f"{MANY} --users users.parquet", "can't read users.parquet",
         before=lambda: pq.write_table(pa.table({"user": ["ann"]}), "users.parquet")),
    case("recommend: users into a folder that is not there", f"{MANY}/below/o.parquet --users users.txt",
         "can't write", before=text("users.txt", "ann 1 2\n")),
    case("recommend: no run", "recommend --user 1", "no run below runs", before=gone("runs")),
    case("recommend: no such run", "recommend --run runs/nobody --user 1", "runs/nobody"),
    case("report: no run", "report runs/nobody", "no run folder at runs/nobody"),
    case("report: a folder of no run", "report data", "data holds no run"),
    case("report: broken metrics", "report runs/small", "metrics.jsonl", "line 1",
         before=lambda: text("runs/small/sft/metrics.jsonl", 'step 1\n{"step": 2}\n')()),
    case("report: can't be written", f"report runs/small --out {UNWRITABLE}/page.html", "can't write"),
    case("demo: can't be written", f"demo --dir {UNWRITABLE}", "can't write"),
    case("demo: unknown key", "demo --set sft.epoch=1", "did you mean 'epochs'"),
]  # fmt: skip

CASES = [*CONFIG, *DATA, *SID, *SFT, *RL, *USE]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, built once for all cases of a process."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_small_world(folder)
    return folder


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy to break, as the current folder."""
    folder = tmp_path / "work"
    shutil.copytree(built, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes, None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("wrong", [pytest.param(case, id=case.name, marks=case.marks) for case in CASES])
def test_a_wrong_input_is_told_and_leaves_nothing(wrong: Case, world: Path, capfd: pytest.CaptureFixture[str]):
    wrong.before()
    before = tree(world)
    with pytest.raises(SystemExit) as stop:
        main(list(wrong.arguments))
    shown = capfd.readouterr()
    assert stop.value.code == wrong.code, shown
    assert "Traceback" not in shown.out + shown.err
    for words in wrong.says:
        assert words in shown.err, shown.err
    assert shown.err.count("Error:") == 1
    assert tree(world) == before


def test_there_are_enough_cases_and_no_two_are_the_same():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config show missing.toml", "no config at missing.toml"),
        ("report runs/nobody", "no run folder at runs/nobody"),
        ("data prepare amazon missing --out new", "not a folder"),
    ],
)
def test_the_shell_sees_exit_code_2_and_no_traceback(line: str, words: str, world: Path):
    before = tree(world)
    command = [sys.executable, "-c", "from recrl.commands.main import main; main()", *line.split()]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=world)
    assert shown.returncode == 2
    assert words in shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""
    assert tree(world) == before


def test_the_world_that_the_cases_break_works_unbroken(world: Path, capfd: pytest.CaptureFixture[str]):
    main_ok("recommend --run runs/small --k 3 --json --user 1")
    assert len(json.loads(capfd.readouterr().out)) == 3
    main_ok("rl run.toml")
    assert (world / "runs/small/rl/latest").is_symlink()


def main_ok(line: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 0
