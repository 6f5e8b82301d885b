"""The whole path once, on the embedded synthetic marketplace: data, SIDs, SFT, RL, evaluation, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recrl import config as configs
from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.evaluation.evaluate import evaluate
from recrl.evaluation.results import EvaluationResult
from recrl.report.page import build_report
from recrl.sids.build import SidPlan, build_folder
from recrl.training.rl import train_rl
from recrl.training.sft import train_sft
from recrl.training.stage import Report

CONFIG = Path(__file__).parent / "demo.toml"


def demo_config(folder: Path, overrides: tuple[str, ...]) -> RunConfig:
    """The packaged config with everything that it writes below ``folder``."""
    places = (
        f'run.dir="{folder / "runs"}"',
        f'data.path="{folder / "data/demo"}"',
        f'sid.path="{folder / "sids/demo"}"',
    )
    return configs.load(CONFIG, (*places, *overrides))


def run_demo(
    config: RunConfig, say: Callable[[str], None], sft_report: Report, rl_report: Report
) -> tuple[list[EvaluationResult], Path]:
    """Run every stage, replacing what an earlier demo left; the results of test, and the report's path."""
    say("data: a synthetic marketplace whose true next-item distribution is known")
    prepare("synthetic", None, config.data.path, overwrite=True)
    say("SIDs: text and co-occurrence -> balanced residual k-means")
    plan = SidPlan(config.sid.encoder, config.sid.quantizer, config.sid.levels, config.sid.codebook_size)
    build_folder(datasets.load(config.data.path), plan, config.run.seed, config.sid.path, overwrite=True)
    say("SFT: next item, from scratch")
    status = train_sft(config, sft_report, overwrite=True)
    say(f"  {status['reason']}; best validation NDCG@10 {status['best_value']:.4f}")
    say("RL: new users of the marketplace click on what legal beams show them")
    status = train_rl(config, rl_report, overwrite=True)
    say(f"  {status['reason']}; validation NDCG@10 {status['start_value']:.4f} -> {status['best_value']:.4f}")
    results, _ = evaluate([config.folder], "test", say)
    return results, build_report(config.folder)
