"""A plan in words, in rows of a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from recrl.hardware.planner import GIB, Job, Layout, Plan

LEAST_BUDGET = 64
"""Of ``backend.token_budget``."""
HEAD = (
    "TP x DP",
    "prompts at once",
    "token budget",
    "memory, GiB",
    "held most in",
    "seconds by phase",
    "step, s",
    "MFU",
    "fits",
)


def summary(plan: Plan) -> list[str]:
    """What is computed and what is assumed, a line each."""
    job, load, given = plan.job, plan.job.load, plan.assumptions
    needs = [name for name, asked in (("old log-prob", load.old_log_prob), ("reference", load.reference)) if asked]
    moments = "split over the copies (ZeRO-1)" if given.sharded_optimizer else "whole on every copy"
    lines = [
        f"{job.shape.name}: {job.shape.parameters:,} parameters; weights, gradients and AdamW in float32, "
        f"products in {job.dtype}",
        f"{load.prompts} prompts of {job.prompt_tokens:,} tokens, G = {load.group}, {job.response_tokens} tokens a "
        f"response; {load.active} rows of a group are trained on, in {_steps(load.optimizer_steps)}"
        + (f", with {' and '.join(needs)}" if needs else ""),
        f"{plan.profile.name}: {plan.profile.devices} devices; every prompt is computed once: "
        f"{job.rollout_tokens:,} tokens in the rollout, {job.actor_tokens:,} in the update",
        "PFLOPs of a step: "
        + ", ".join(f"{_words(name)} {phase.flops / 1e15:.3g}" for name, phase in plan.layouts[0].phases.items()),
        f"assumed: products reach {given.efficiency:.0%} of the peak, {given.usable:.0%} of the memory is usable, "
        f"AdamW's moments are {moments}",
    ]
    if plan.excluded:
        lines.append("no TP of " + "; of ".join(f"{degree}: it {why}" for degree, why in plan.excluded.items()))
    return lines


def _words(phase: str) -> str:
    return {"old_log_prob": "old log-prob"}.get(phase, phase)


def _steps(count: int) -> str:
    return "1 optimiser step" if count == 1 else f"{count} optimiser steps"


def row(layout: Layout) -> tuple[str, ...]:
    """A line under ``HEAD``."""
    phases = ", ".join(f"{_words(name)} {phase.seconds:.2f}" for name, phase in layout.phases.items())
    return (
        f"{layout.share.tensor} x {layout.share.data}",
        str(layout.micro_prompts),
        f"{layout.token_budget:,}",
        f"{layout.memory.total / GIB:.1f}",
        layout.memory.moment,
        phases,
        f"{layout.seconds:.2f}",
        f"{layout.mfu:.3f}",
        "yes" if layout.fits else f"no: {layout.why_not}",
    )


def parts(layout: Layout) -> str:
    """Memory by part, in GiB."""
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in layout.memory.parts.items() if size)


def settings(job: Job, layout: Layout) -> dict[str, str | int]:
    """The keys of a run's config that make it the layout."""
    return {
        "backend.engine": "megatron" if layout.share.tensor > 1 else "torch",
        "backend.tensor_parallel": layout.share.tensor,
        "backend.dtype": job.dtype,
        "backend.token_budget": max(layout.token_budget, LEAST_BUDGET),
        "rl.prompts_per_step": job.load.prompts,
        "rl.rollout.group_size": job.load.group,
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def layout_json(layout: Layout) -> dict[str, Any]:
    """A layout with everything that is known of it; memory in bytes."""
    return {
        "tensor_parallel": layout.share.tensor,
        "data_parallel": layout.share.data,
        "micro_batch_prompts": layout.micro_prompts,
        "token_budget": layout.token_budget,
        "fits": layout.fits,
        "why_not": layout.why_not,
        "memory_bytes": layout.memory.total,
        "held_most_in": layout.memory.moment,
        "memory": layout.memory.moments,
        "phases": {name: asdict(phase) | {"seconds": phase.seconds} for name, phase in layout.phases.items()},
        "step_seconds": layout.seconds,
        "mfu": layout.mfu,
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """The whole plan, best layout first."""
    job = plan.job
    return {
        "model": asdict(job.shape) | {"parameters": job.shape.parameters},
        "load": asdict(job.load),
        "prompt_tokens": job.prompt_tokens,
        "response_tokens": job.response_tokens,
        "dtype": job.dtype,
        "tokens": {"update": job.actor_tokens, "rollout": job.rollout_tokens},
        "profile": plan.profile.name,
        "devices": plan.profile.devices,
        "assumptions": asdict(plan.assumptions),
        "excluded_tensor_parallel": plan.excluded,
        "layouts": [layout_json(layout) for layout in plan.layouts],
    }
