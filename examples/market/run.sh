#!/usr/bin/env bash
# What feedback is worth where the truth is known: SFT on the log, the same budget of further logged data (the control),
# RL on clicks, and two settings of the environment in which methods differ. Writes RESULTS.md.
# Every stage that is finished is kept, and one that was cut short goes on where it stopped.
# Usage: run.sh [SEED ...]; the settings start from each seed's SFT.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=examples/market/market.toml
budget=307200
[ $# -gt 0 ] || set -- 0 1 2
for seed in "$@"; do
  if [[ ! $seed =~ ^[0-9]+$ ]]; then
    echo "$seed is no seed: whole numbers, please" >&2
    exit 2
  fi
done

more=(--set "data.path=data/market-more" --set "sid.path=sids/market-more")
[ -d data/market ] || recrl data synthetic --out data/market
[ -d sids/market ] || recrl sid build "$config"
[ -d data/market-more ] || recrl data synthetic --out data/market-more -O "extra_interactions=$budget"
[ -d sids/market-more ] || recrl sid build "$config" "${more[@]}"

# The optimum is written last: where it is, everything was measured.
measure() {
  [ -f "runs/$1/evaluation/$2-test.json" ] && [ -f "runs/$1/evaluation/optimum-test.json" ] ||
    recrl eval "runs/$1" --split test
}

for seed in "$@"; do
  name=market-$seed
  recrl sft "$config" --set "run.name=$name" --set "run.seed=$seed" --resume
  recrl rl "$config" --set "run.name=$name" --set "run.seed=$seed" --resume
  measure "$name" rl
  control=(--set "run.name=control-$seed" --set "run.seed=$seed" --set sft.epochs=4 --set sft.eval_every=500)
  recrl sft "$config" "${more[@]}" "${control[@]}" --resume
  measure "control-$seed" sft
done

# setting SETTING SEED METHOD [--set ...]: 100 steps from the seed's SFT, without a memory, so that methods are told apart,
# at the learning rate that validation prefers.
setting() {
  local name=$1-$3-$2 seed=$2 method=$3
  shift 3
  local start
  start=$(python -c "from pathlib import Path; from recrl.store.checkpoint import best; print(best(Path('runs/market-$seed/sft')).model)")
  recrl rl "$config" --recipe "examples/market/$method.toml" --set "run.name=$name" --set "run.seed=$seed" \
    --set "rl.init=$start" --set memory.weight=0 --set rl.steps=100 --set rl.eval_every=25 \
    --set rl.environment.budget=0 "$@" --resume
  measure "$name" rl
}
sparse=(--set rl.environment.appeal=0.2 --set rl.environment.reveal_next=true --set rl.lr=0.00003)
cold=(--set rl.environment.cold_appeal=4.0 --set rl.lr=0.0003)
for seed in "$@"; do
  for method in grpo recast clicks; do setting sparse "$seed" "$method" "${sparse[@]}"; done
  for method in grpo sage clicks; do setting cold "$seed" "$method" "${cold[@]}"; done
done

python examples/market/results.py > examples/market/RESULTS.md
cat examples/market/RESULTS.md
