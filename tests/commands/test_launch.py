from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from recrl.commands.main import main
from recrl.hardware.launch import SCHEDULERS
from recrl.hardware.launch import submit as submitting

CONFIG = '[run]\nname = "ours"\n'
SLURM = "launch run.toml --profile h100-64 --scheduler slurm"
POD = "--image registry.example/recrl:1 --volume disk:/shared --workdir /shared/me"
Recrl = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def recrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Recrl:
    """The command line in a folder with a config: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(CONFIG)

    def call(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line))
        shown = capfd.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a program that is the only one on the path besides the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(submitting, "_path", lambda: f"{folder}:/bin:/usr/bin")

    def make(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return make


def test_the_script_is_printed_with_the_run_s_own_words(recrl: Recrl):
    code, out, _ = recrl(f"{SLURM} --recipe openonerec_rl --set rl.steps=7")
    assert code == 0
    assert out.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=ours-rl\n")
    assert "recrl rl run.toml --resume --recipe openonerec_rl --set rl.steps=7" in out
    assert "--log-dir=runs/ours/logs/rl/node-" in out


def test_a_stage_of_ones_own(recrl: Recrl):
    assert "recrl sft run.toml --resume\n" in recrl(f"{SLURM} --stage sft")[1]


def test_out_holds_what_would_be_printed(recrl: Recrl):
    printed = recrl(SLURM)[1]
    assert recrl(f"{SLURM} --out job.sh")[1] == "Script: job.sh\n"
    assert Path("job.sh").read_text() == printed


def test_submit_gives_the_script_to_the_scheduler(recrl: Recrl, program: Callable[[str, str], None]):
    program("sbatch", "cat > received; echo Submitted batch job 7")
    printed = recrl(SLURM)[1]
    assert recrl(f"{SLURM} --submit") == (0, "Submitted batch job 7\n", "")
    assert Path("received").read_text() == printed


def test_submit_on_one_node_runs_it_here(recrl: Recrl, program: Callable[[str, str], None]):
    program("torchrun", 'echo "torchrun $@"')
    code, out, _ = recrl("launch run.toml --profile cpu --scheduler torchrun --submit")
    assert code == 0
    assert "--nproc-per-node=1" in out
    assert out.endswith("--no-python recrl rl run.toml --resume\n")


def test_what_the_scheduler_refuses_is_a_failed_run(recrl: Recrl, program: Callable[[str, str], None]):
    program("kubectl", "echo no such namespace >&2; exit 3")
    code, _, err = recrl(f"launch run.toml --profile h100-64 --scheduler k8s {POD} --submit")
    assert code == 1
    assert err.startswith("no such namespace\nError: kubectl apply -f - failed (3)")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{SLURM} --submit --out job.sh", "sbatch is not to be found"),
        ("launch run.toml --profile h100-8 --scheduler torchrun --submit --out job.sh", "torchrun is not to be found"),
        (
            "launch run.toml --profile h100-64 --scheduler torchrun --rendezvous a:1 --workdir / --submit --out job",
            "torchrun on 8 nodes",
        ),
        ("launch run.toml --profile h100-65 --scheduler slurm", "choose 1 to 8, or a multiple of 8"),
        ("launch none.toml --profile h100-64 --scheduler slurm", "no config at none.toml"),
        (f"{SLURM} --set rl.stepss=7", "did you mean 'steps'"),
        (f"{SLURM} --set backend.device=npu", "the profile's devices are cuda"),
        (f"{SLURM} --out run.toml/job.sh", "can't write run.toml/job.sh"),
        ("launch run.toml --profile h100-64 --scheduler k8s", "--image is missing"),
        (f"{SLURM} --queue night", "--queue with --scheduler slurm"),
    ],
)
@pytest.mark.usefixtures("program")
def test_a_wrong_call_is_told_and_writes_nothing(recrl: Recrl, line: str, words: str):
    before = sorted(Path().iterdir())
    code, out, err = recrl(line)
    assert (code, out) == (2, "")
    assert words in err
    assert sorted(Path().iterdir()) == before
    assert Path("run.toml").read_text() == CONFIG


PAGE = Path(__file__).parents[2] / "docs" / "launch.md"
EXAMPLES = re.findall(r"```console\n\$ recrl (launch (?:.*\\\n)*.*)\n((?:.*\n)*?)```", PAGE.read_text())
"""Command lines of the page with what it shows; a line of three dots stands for lines left out."""


@pytest.mark.parametrize(("line", "shown"), EXAMPLES, ids=list(SCHEDULERS))
def test_the_page_shows_what_the_command_prints(recrl: Recrl, line: str, shown: str):
    Path("run.toml").write_text('[run]\nname = "example"\n')
    code, out, err = recrl(line.replace("\\\n", " "))
    assert code == 0, err
    before, dots, after = shown.partition("\n...\n")
    assert out.startswith(before) and out.endswith(after) if dots else out == shown
