#!/usr/bin/env bash
# What three signals make of the same rollouts: 40 steps from one SFT, three seeds, validation NDCG@10 of 2,000 users; and
# how often beams hold targets that SFT has seen, against those that were held out of it. Needs run.sh's SFT of toys; the
# last comparison trains one of its own, with targets held out.
# Every run that is finished is kept. Writes SIGNALS.md.
set -euo pipefail
cd "$(dirname "$0")/../../.."
config=examples/toys/toys.toml
best() { python -c "from pathlib import Path; from recrl.store.checkpoint import best; print(best(Path('runs/$1/sft')).model)"; }
if ! [ -d runs/toys/sft/checkpoints ]; then
  echo "runs/toys/sft is not there: bash examples/toys/run.sh toys trains it" >&2
  exit 2
fi
start=$(best toys)

rl() {
  local name=$1
  shift
  recrl rl "$config" --recipe recrl --set "run.name=signals-$name" --set "rl.init=$start" --set rl.max_ndcg_drop=1 \
    --set eval.valid_examples=2000 "$@" --resume
}
for seed in 0 1 2; do
  short=(--set "rl.seed=$seed" --set rl.steps=40 --set rl.eval_every=20)
  rl "zscore-$seed" "${short[@]}" --set rl.signal.kind=group_zscore
  rl "likelihood-$seed" "${short[@]}" --set rl.signal.kind=sign --set rl.signal.negative_weight=0 \
    --set rl.signal.drop_one_sided=false
  rl "recrl-$seed" "${short[@]}"
  rl "alone-$seed" "${short[@]}" --set memory.weight=0
done
# At a rate of nothing: what the beams of an SFT hold that has not seen all targets.
recrl sft "$config" --set memory.weight=0 --set run.name=toys-held-out --set sft.held_out=0.3 --resume
start=$(best toys-held-out)
for targets in last held_out; do
  rl "$targets" --set memory.weight=0 --set rl.lr=1e-12 --set rl.epochs=1 --set rl.steps=20 \
    --set sft.held_out=0.3 --set "rl.targets=$targets"
done
python examples/toys/signals/results.py > examples/toys/signals/SIGNALS.md
cat examples/toys/signals/SIGNALS.md
