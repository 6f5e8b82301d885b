"""One TOML file -> one frozen ``RunConfig``.

Layers, the later wins: the defaults below, a recipe (``recipes/*.toml``), the user's file, and ``--set`` on top. A
wrong key or value is answered before torch loads; the options of a named part (``kind = ...``) are checked by its own
model when the run starts, still before anything is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from recrl import recipe as recipes
from recrl.config_layers import merge, override, read_toml
from recrl.errors import ConfigError, nearest
from recrl.kernels.registry import KERNELS
from recrl.parts import Choice
from recrl.section import Section
from recrl.training_sections import RlSection, SftSection


class RunSection(Section):
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's folder below ``dir``."""
    dir: Path = Path("runs")
    """Where runs are kept."""
    seed: int = Field(0, ge=0)
    """Every random number of the run follows from it."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 leaves it to torch. Part of what makes a run repeat bit for bit."""


class DataSection(Section):
    path: Path = Path("data/synthetic")
    """A folder written by ``recrl data prepare``."""
    history_limit: int | None = Field(None, ge=1)
    """Items of history in a prompt, the latest ones; default: what the data set was prepared with."""


class SidSection(Section):
    path: Path = Path("sids/synthetic")
    """Where ``recrl sid build`` writes and everything else reads."""
    levels: int = Field(3, ge=1, le=7)
    """Codes of a SID, the suffix not counted."""
    codebook_size: int = Field(256, ge=2)
    """Codes of a level."""
    encoder: Choice = Choice(kind="fused")
    """From item text and co-occurrence to vectors."""
    quantizer: Choice = Choice(kind="balanced")
    """From vectors to codes."""


class ModelSection(Section):
    preset: Literal["tiny", "small", "base"] | None = None
    """A Qwen3-shaped model from scratch. Give this or ``path``."""
    path: Path | None = None
    """A Hugging Face decoder folder to start from."""
    shape: dict[str, int | float | bool] = Field(default_factory=dict)
    """Changes to the preset's shape, by the names of Hugging Face's config (``hidden_size`` ...)."""
    text_vocab_size: int = Field(0, ge=0)
    """Entries of a byte-level BPE trained on the catalogue's text; 0: SIDs alone. Presets only."""
    sid_init: Literal["codebook", "random"] = "codebook"
    """Embeddings of a preset's SID tokens at the start: the codebooks' centroids, turned and scaled, or random ones."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on embeddings and on every block's output, in SFT. The saved model is a stock one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.preset is not None and self.path is not None:
            raise ValueError("preset and path exclude each other: one builds a model, the other loads one")
        if self.path is not None and (self.shape or self.text_vocab_size):
            raise ValueError("shape and text_vocab_size describe a preset, and path is given")
        return self


class PromptSection(Section):
    template: Literal["plain", "instruct"] = "plain"
    """``plain``: the SIDs alone, so one pass of SFT scores every position. ``instruct``: sentences around them."""
    action_space: Literal["sid", "title"] = "sid"
    """What names an item in histories and responses: its SID, or its title in the model's own words (RecLLM)."""
    slate_size: int = Field(1, ge=1)
    """Items that the task ``slate`` asks for."""
    pool: int = Field(0, ge=0)
    """Candidates that a prompt shows and its responses choose from, retrieved for its history; 0: none, and responses
    may name the whole catalogue. The target is a candidate where the retriever finds it and nowhere else, which bounds
    every metric by ``pool_recall``; SFT leaves out rows whose target is none. For prompts about a history: ``plain``
    puts them before it, with the end token between, ``instruct`` into a sentence."""
    retriever: Choice = Choice(kind="item_knn")
    """Finds the candidates: a baseline, fitted on the training sequences. A history of these is scored without its own
    counts; ``sasrec`` has none to take out, and finds their targets more often than those of other histories."""
    pool_order: Literal["catalogue", "rank"] = "catalogue"
    """Order of the candidates: the catalogue's, so that a model has to tell them apart by itself, or best first, which
    hands it the retriever's ranking."""

    @model_validator(mode="after")
    def _pool_can_be_shown(self) -> Self:
        if self.pool == 1:
            raise ValueError("pool = 1 leaves nothing to choose: 0 shows no candidates, 2 and more do")
        if 0 < self.pool < self.slate_size:
            raise ValueError(f"a slate of {self.slate_size} items can't be chosen from pool = {self.pool} candidates")
        return self


class MemorySection(Section):
    """A collaborative memory in the policy: it weighs on every legal response by what a scorer knows of the history."""

    weight: float = Field(0.0, ge=0, le=32)
    """Exponent of the scorer's share: a response's probability is proportional to the model's times share^weight. 0 is
    a policy without a memory."""
    floor: float = Field(1e-4, ge=1e-12, le=0.9)
    """Added to every share, so that items of which the scorer knows nothing stay possible."""
    scorer: Choice = Choice(kind="hybrid_knn")
    """A baseline whose scores are sparse, fitted on the training sequences."""
    size: int = Field(200, ge=1)
    """Items that are recalled for a history, the best."""
    hidden_size: int = Field(0, ge=0)
    """Width of a small network on what is known of a recalled item (its scores, its count, how near its text is to
    the last items), which RL trains along with the model; 0 leaves the memory as it is. Counts with ``weight`` above 0
    alone."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate of that network; its schedule is RL's."""


class BackendSection(Section):
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``npu`` or one with an index, as torch writes them."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; the weights stay float32. ``auto`` measures at the start and takes bfloat16 where
    its products are faster on this device, else float32; a resumed run keeps what it began with."""
    token_budget: int = Field(32768, ge=64)
    """Tokens of one forward pass: the size of micro-batches and rollout batches."""
    engine: Literal["torch", "fsdp2", "megatron"] = "torch"
    """What computes the model. ``torch``: transformers, a copy on every process. ``fsdp2``: the same with weights,
    gradients and moments shared out over all processes. ``megatron``: Megatron-core, tensor parallel."""
    tensor_parallel: int = Field(1, ge=1)
    """Devices that hold one copy of the model together (``engine = "megatron"``); the processes that torchrun starts
    make as many copies as fit."""
    logprob_space: Literal["raw", "legal"] = "raw"
    """What a log-probability is normalised over: the vocabulary, or the legal continuations (papers.md, rule 4)."""
    mfu: Literal["computed", "verl"] = "computed"
    """What ``perf/mfu/actor`` counts: the products that are computed, or, as verl, all parameters for every token, with
    the embedding's lookup and the head at tokens that nothing is predicted from."""
    kernels: dict[str, str] = Field(default_factory=dict)
    """Implementation of an op by its name, as in ``{linear_logp = "reference"}``; the others take the fastest."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.tensor_parallel > 1 and self.engine != "megatron":
            raise ValueError('tensor_parallel needs engine = "megatron"')
        return self

    @field_validator("kernels")
    @classmethod
    def _known_ops(cls, values: dict[str, str]) -> dict[str, str]:
        for op in values:
            if op not in KERNELS:
                raise ValueError(f"no op {op!r}: {nearest(op, KERNELS)}")
        return values


class EvalSection(Section):
    beam_width: int = Field(50, ge=1)
    """Beams of evaluation and recommendation."""
    k: tuple[int, ...] = (1, 5, 10, 20)
    """Lengths of the lists that are measured."""
    exclude_history: bool = False
    """Recommend items alone that the history does not hold, and evaluate that as well, in rows named ``NAME-new``. For
    data in which nobody takes an item twice."""
    bootstrap: int = Field(1000, ge=0)
    """Resamples behind the 95 % intervals; 0 leaves them out."""
    slate_beams: int = Field(4, ge=1)
    """Beams of slates, whose items, concatenated, are the list of a model that was trained on slates."""
    slate_size: int = Field(0, ge=0)
    """Items of these slates; 0 is as many as in training."""
    valid_examples: int = Field(4000, ge=0)
    """Examples that the validations during training score, drawn once from the seed; 0 is all."""
    valid_beam_width: int = Field(20, ge=10)
    """Beams of these validations; they look at the first 10 items."""
    cold_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the items, the rarest in training, that Cold-Recall counts as cold."""
    cold_denominator: Literal["cold", "all"] = "cold"
    """Whom Cold-Recall is the mean over: users whose target is cold, or all of them (papers.md A-8)."""

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        if not self.k or min(self.k) < 1:
            raise ValueError("k must hold numbers from 1 up")
        if max(self.k) > self.beam_width:
            raise ValueError(f"k = {max(self.k)} needs as many beams, and beam_width is {self.beam_width}")
        return self


class RunConfig(Section):
    """Everything about one run."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    sid: SidSection = SidSection()
    model: ModelSection = ModelSection()
    prompts: PromptSection = PromptSection()
    memory: MemorySection = MemorySection()
    backend: BackendSection = BackendSection()
    sft: SftSection = SftSection()
    rl: RlSection = RlSection()
    eval: EvalSection = EvalSection()

    @model_validator(mode="after")
    def _slates_of_one_size(self) -> Self:
        rolled_out = self.rl.rollout.given.get("slate_size", 1)
        if self.rl.tasks.get("slate", 0) > 0 and rolled_out != self.prompts.slate_size:
            raise ValueError(
                f"rl.rollout.slate_size is {rolled_out} and prompts.slate_size {self.prompts.slate_size}: the task "
                "'slate' needs both equal"
            )
        return self

    @model_validator(mode="after")
    def _pool_goes_with_the_rest(self) -> Self:
        pool = self.prompts.pool
        if 0 < pool < self.eval.beam_width:
            raise ValueError(f"eval.beam_width = {self.eval.beam_width} beams can't end in prompts.pool = {pool} items")
        if pool and any(tasks.get("recif", 0) > 0 for tasks in (self.sft.tasks, self.rl.tasks)):
            raise ValueError("the prompts of the task 'recif' came with the data: prompts.pool can't add candidates")
        if pool and self.sft.teacher.weight > 0 and self.backend.logprob_space == "legal":
            raise ValueError(
                "soft targets of sft.teacher come from the whole catalogue, and backend.logprob_space = 'legal' gives "
                "what is not in prompts.pool no probability"
            )
        if pool and self.sft.feedback is not None:
            raise ValueError(
                "rows of sft.feedback do not say which sequence they were cut from, and prompts.pool has to leave that "
                "one's own counts out"
            )
        return self

    @model_validator(mode="after")
    def _memory_learns_where_it_can(self) -> Self:
        if self.memory.weight and self.memory.hidden_size and self.backend.engine != "torch":
            raise ValueError("memory.hidden_size needs backend.engine = 'torch': the other engines keep a memory fixed")
        return self

    @property
    def asks_for_slates(self) -> bool:
        """Whether the model is trained to list several items, and so is measured by such lists."""
        return any(tasks.get("slate", 0) > 0 for tasks in (self.sft.tasks, self.rl.tasks))

    @property
    def rl_seed(self) -> int:
        """The seed of RL's random numbers."""
        return self.run.seed if self.rl.seed is None else self.rl.seed

    @property
    def folder(self) -> Path:
        """The run's folder; its stages lie below."""
        return self.run.dir / self.run.name

    def to_toml(self) -> str:
        """The resolved config; reading it back gives an equal one."""
        return tomli_w.dumps(_without_none(json.loads(self.model_dump_json())))


METHOD_PARTS = ("rollout", "rewards", "signal", "objective")
"""Keys of ``[rl]`` that are a method's parts."""


def load(
    path: Path, overrides: tuple[str, ...] = (), *, recipe: str | None = None, otherwise: str | None = None
) -> RunConfig:
    """Read, layer and check a config.

    Args:
        path: the TOML file.
        overrides: ``section.key=value`` each; the value is TOML, or a bare word.
        recipe: a recipe's name or path; wins over the file's ``rl.recipe``.
        otherwise: a recipe for a config that names neither a recipe nor a part of a method.

    Raises:
        ConfigError: names file, key, value, reason and fix.
    """
    user = read_toml(path)
    for text in overrides:
        override(user, text)
    rl = user.setdefault("rl", {})
    if recipe is not None and isinstance(rl, dict):
        rl["recipe"] = recipe
    if otherwise is not None and isinstance(rl, dict) and not any(key in rl for key in ("recipe", *METHOD_PARTS)):
        rl["recipe"] = otherwise
    chosen = rl.get("recipe") if isinstance(rl, dict) else None
    layered = merge(read_recipe(chosen), user) if isinstance(chosen, str) else user
    return check(layered, str(path))


def check(values: dict[str, Any], source: str) -> RunConfig:
    """A ``RunConfig`` from nested values, or a ``ConfigError`` in the user's words."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]
        key = ".".join(str(step) for step in first["loc"])
        fix = "`recrl config schema` lists every key with its bounds"
        if first["type"] == "extra_forbidden":
            fix = nearest(str(first["loc"][-1]), _known_keys(first["loc"][:-1]))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        shown = repr(first["input"])
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        found = f"{key} = {shown}"
        reason = "there is no such key" if first["type"] == "extra_forbidden" else first["msg"]
        if first["type"] == "value_error":  # one of our own rules, which may be about a whole section
            reason = str(first["ctx"]["error"])
            found = f"[{key}]" if isinstance(first["input"], dict) and "." not in key else found
            found, fix = (found, fix) if key else ("two sections that do not go together", "change one of them")
        raise ConfigError(f"{source}: {found}{more}", why=reason, fix=fix) from None


def read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe, checked: the part of a config that names a method."""
    recipe = recipes.read(name)
    check(recipe.values, recipe.origin)  # on its own, so that an error names the recipe and not the file that asks
    return recipe.values


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = RunConfig
    for step in location:  # sections only: a part takes any key here
        model = model.model_fields[str(step)].annotation
    return list(model.model_fields)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
