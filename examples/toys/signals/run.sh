#!/usr/bin/env bash
# What three signals make of the same rollouts: 40 steps from one SFT, three seeds, validation NDCG@10 of 2,000 users; and
# how often beams hold targets that SFT has seen, against those that were held out of it. Needs run.sh's SFT of toys.
# Every run that is finished is kept. Writes SIGNALS.md.
set -euo pipefail
cd "$(dirname "$0")/../../.."
config=examples/toys/toys.toml
start=$(python -c "from pathlib import Path; from recrl.training.checkpoint import best; print(best(Path('runs/toys/sft')).model)")

rl() {
  local name=$1
  shift
  recrl rl "$config" --set "run.name=signals-$name" --set "rl.init=$start" --set rl.max_ndcg_drop=1 "$@" --resume
}
for seed in 0 1 2; do
  for signal in zscore likelihood recrl; do
    recipe=examples/toys/signals/$signal.toml
    [ "$signal" = recrl ] && recipe=recrl
    rl "$signal-$seed" --recipe "$recipe" --set "rl.seed=$seed" --set rl.steps=40 --set rl.eval_every=20
  done
done
for seed in 0 1 2; do
  rl "alone-$seed" --recipe recrl --set memory.weight=0 --set "rl.seed=$seed" --set rl.steps=40 --set rl.eval_every=20
done
# At a rate of nothing: what the SFT's beams hold.
for targets in last held_out; do
  rl "$targets" --recipe recrl --set memory.weight=0 --set rl.lr=1e-12 --set rl.epochs=1 --set rl.steps=20 \
    --set "rl.targets=$targets"
done
python examples/toys/signals/results.py > examples/toys/signals/SIGNALS.md
cat examples/toys/signals/SIGNALS.md
