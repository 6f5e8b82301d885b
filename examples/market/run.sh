#!/usr/bin/env bash
# What feedback is worth where the truth is known: SFT on the log, the same budget of further logged data (the control),
# RL on clicks, and two settings of the environment in which methods differ. Writes RESULTS.md.
# Every stage that is finished is kept, and one that was cut short goes on where it stopped.
# Usage: run.sh [SEED ...]; the first seed's SFT is where the settings start.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=examples/market/market.toml
budget=307200
[ $# -gt 0 ] || set -- 0 1 2

more=(--set "data.path=data/market-more" --set "sid.path=sids/market-more")
[ -d data/market ] || recrl data synthetic --out data/market
[ -d sids/market ] || recrl sid build "$config"
[ -d data/market-more ] || recrl data synthetic --out data/market-more -O "extra_interactions=$budget"
[ -d sids/market-more ] || recrl sid build "$config" "${more[@]}"

measure() { [ -f "runs/$1/evaluation/$2-test.json" ] || recrl eval "runs/$1" --split test; }

for seed in "$@"; do
  name=market-$seed
  recrl sft "$config" --set "run.name=$name" --set "run.seed=$seed" --resume
  recrl rl "$config" --set "run.name=$name" --set "run.seed=$seed" --resume
  measure "$name" rl
  control=(--set "run.name=control-$seed" --set "run.seed=$seed" --set sft.epochs=4 --set sft.eval_every=500)
  recrl sft "$config" "${more[@]}" "${control[@]}" --resume
  measure "control-$seed" sft
done

# setting SETTING METHOD [--set ...]: 100 steps from the first seed's SFT, at the learning rate that validation prefers.
start=$(python -c "from pathlib import Path; from recrl.training.checkpoint import best; print(best(Path('runs/market-$1/sft')).model)")
setting() {
  local name=$1-$2 method=$2
  shift 2
  recrl rl "$config" --recipe "examples/market/$method.toml" --set "run.name=$name" --set "rl.init=$start" \
    --set rl.steps=100 --set rl.eval_every=25 --set rl.environment.budget=0 "$@" --resume
  measure "$name" rl
}
sparse=(--set rl.environment.appeal=0.2 --set rl.environment.reveal_next=true)
for method in grpo recast clicks; do setting sparse "$method" "${sparse[@]}" --set rl.lr=0.0003; done
cold=(--set rl.environment.cold_appeal=4.0)
for method in grpo sage clicks; do setting cold "$method" "${cold[@]}" --set rl.lr=0.0003; done

python examples/market/results.py > examples/market/RESULTS.md
cat examples/market/RESULTS.md
