#!/usr/bin/env bash
# The whole path on Amazon Toys, and the same config on Amazon Beauty: data, SIDs, SFT, RL, evaluation, report, RESULTS.md.
# Every stage that is finished is kept, and one that was cut short goes on where it stopped.
# Usage: run.sh [toys|beauty ...]; DATA names the folder that holds toys/ and beauty/.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${DATA:-../shared/data/amazon14}
config=examples/toys/toys.toml
[ $# -gt 0 ] || set -- toys beauty

for name in "$@"; do
  if [ ! -d "$data/$name" ]; then
    echo "skipped $name: $data/$name is not there (set DATA)" >&2
    continue
  fi
  places=(--set "run.name=$name" --set "data.path=data/$name" --set "sid.path=sids/$name")
  [ -d "data/$name" ] || recrl data prepare amazon "$data/$name" --out "data/$name"
  [ -d "sids/$name" ] || recrl sid build "$config" "${places[@]}"
  recrl sft "$config" "${places[@]}" --resume
  recrl rl "$config" "${places[@]}" --resume
  recrl eval "runs/$name" --split valid
  recrl eval "runs/$name" --split test
  recrl report "runs/$name"
done
python examples/toys/results.py runs/toys runs/beauty > examples/toys/RESULTS.md
cat examples/toys/RESULTS.md
