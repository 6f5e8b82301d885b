"""A stage of a run on disk: config, environment, metrics, status."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from recrl import __version__
from recrl.atomic import write_text
from recrl.config import RunConfig
from recrl.config_layers import changes, flat
from recrl.device.cpu import cpu_name
from recrl.errors import UserError
from recrl.processes import own_rank

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "faiss-cpu", "scikit-learn")

LAYOUT = frozenset({"engine", "tensor_parallel"})
"""Keys of ``[backend]`` that change nothing but where a run's numbers are computed."""


class StageFolder:
    """``runs/<name>/<stage>``: the files that a stage writes besides its checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = time.monotonic()
        self._before_s = 0.0

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def elapsed_s(self) -> float:
        """Seconds spent in this stage, over all of its launches."""
        return self._before_s + time.monotonic() - self._begin

    def start(self, config: RunConfig, device: str, dtype: str, *, overwrite: bool) -> None:
        """Make the folder, or refuse where another run's results lie."""
        if self.path.exists():
            if not overwrite and not self._is_cut_short():
                raise UserError(
                    f"{self.path} exists already",
                    why="a run's results would be mixed with another's",
                    fix="pass --resume to go on with it, --overwrite to replace it, or choose another run.name",
                )
            shutil.rmtree(self.path)
            for result in (self.path.parent / "evaluation").glob(f"{self.path.name}-*"):
                result.unlink()  # of the model that is no more
        try:
            self.checkpoints.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"can't write {self.path}", why=error.strerror or str(error), fix="set run.dir") from None
        text = json.dumps(environment(device, dtype, config.run.seed), indent=2) + "\n"
        (self.path / "environment.json").write_text(text)
        write_text(self.path / "config.toml", config.to_toml())  # last: a folder that has it was started
        self.status("running")

    @property
    def started(self) -> bool:
        """A run has begun here."""
        return (self.path / "config.toml").exists()

    def _is_cut_short(self) -> bool:
        """A start was killed here before any result was written."""
        files = {path.relative_to(self.path).as_posix() for path in self.path.rglob("*")}
        return self.path.is_dir() and files <= {"checkpoints", "environment.json", ".config.toml.tmp"}

    def as_begun(self, config: RunConfig) -> RunConfig:
        """The config with the arithmetic that ``auto`` chose when the run began: a second measurement may differ."""
        if not self.started or config.backend.dtype != "auto":
            return config
        backend = config.backend.model_copy(update={"dtype": self._dtype})
        return config.model_copy(update={"backend": backend})

    @property
    def _dtype(self) -> str:
        """The arithmetic that the run began with.

        Raises:
            UserError: the file that says so is missing or damaged.
        """
        file = self.path / "environment.json"
        try:
            kept = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"can't read {file}",
                why=f"it names the arithmetic that the run began with: {error}",
                fix="put it back, or start under another run.name",
            ) from None
        return str(kept.get("dtype", "float32"))  # which older runs had unless their config said otherwise

    def check_config(self, config: RunConfig) -> None:
        """A resumed run must be the same run; how it is spread over devices may change.

        Args:
            config: as ``as_begun`` gives it.

        Raises:
            UserError: the config is not the one that the run started with.
        """
        texts = ((self.path / "config.toml").read_text(), config.to_toml())
        auto, chosen = 'dtype = "auto"\n', f'dtype = "{self._dtype}"\n'
        read = (flat(tomllib.loads(self._asked(text).replace(auto, chosen))) for text in texts)
        saved, wanted = map(_without_idle_memory, read)
        if saved != wanted:
            raise UserError(
                f"{self.path} was started with another config",
                why=f"a resumed run must be the same run; {changes(saved, wanted)}",
                fix="undo the change, or start under another run.name",
            )

    def _asked(self, text: str) -> str:
        """A config's lines that the stage's numbers depend on, however the run is spread over devices.

        SFT knows of ``[rl]`` whether it asks for slates, by which validation then measures; another RL may follow it.
        """
        lines, section = [], ""
        for line in text.splitlines(keepends=True):
            if line.startswith("["):
                section = line.strip("[]\n")
            of_rl = section == "rl" or (section.startswith("rl.") and section != "rl.tasks")
            if not (of_rl and self.path.name == "sft") and line.split(" = ")[0] not in LAYOUT:
                lines.append(line)
        return "".join(lines)

    def resume(self, step: int, elapsed_s: float) -> None:
        """Go on from a checkpoint: metrics behind its step are taken back."""
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if _is_whole(line) and json.loads(line)["step"] <= step]
            write_text(self.metrics, "".join(line + "\n" for line in kept))
        self._before_s = elapsed_s
        self.status("running")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line of metrics."""
        line = json.dumps({"step": step, "time_s": round(self.elapsed_s, 3)} | values)
        with self.metrics.open("a") as file:
            file.write(line + "\n")

    def status(self, state: str, **more: Any) -> None:
        """Replace ``status.json``."""
        text = json.dumps({"state": state, "seconds": round(self.elapsed_s, 1)} | more, indent=2) + "\n"
        write_text(self.path / "status.json", text)


class Bystander(StageFolder):
    """The folder as ranks other than the first have it: they write nothing."""

    def start(self, config: RunConfig, device: str, dtype: str, *, overwrite: bool) -> None:
        pass

    def check_config(self, config: RunConfig) -> None:
        pass

    def resume(self, step: int, elapsed_s: float) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def status(self, state: str, **more: Any) -> None:
        pass


def stage_folder(path: Path) -> StageFolder:
    """The folder of a stage, for this process."""
    return StageFolder(path) if own_rank() == 0 else Bystander(path)


def environment(device: str, dtype: str, seed: int) -> dict[str, Any]:
    """What a result depends on besides the config."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {
        "recrl": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": found,
        "device": device,
        "dtype": dtype,
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
        "seed": seed,
    }


def _without_idle_memory(values: dict[str, Any]) -> dict[str, Any]:
    """A memory of weight 0 is none, whatever else is said of it."""
    idle = not values.get("memory.weight")
    return {key: value for key, value in values.items() if not (idle and key.startswith("memory."))}


def _git_revision() -> str | None:
    """The revision of the folder that the run was started in; None where it is no checkout."""
    if shutil.which("git") is None:
        return None
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def _is_whole(line: str) -> bool:
    """A line that a kill cut short is no JSON."""
    return line.endswith("}")
