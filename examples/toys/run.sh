#!/usr/bin/env bash
# The whole path on Amazon Toys, and the same config on Amazon Beauty: data, SIDs, SFT, the memory's weight on validation,
# RL with three seeds and everything on test. Writes RESULTS.md here, and for Beauty in examples/beauty.
# Every stage that is finished is kept, and one that was cut short goes on where it stopped.
# Usage: run.sh [toys|beauty ...]; DATA names the folder that holds toys/ and beauty/.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${DATA:-../shared/data/amazon14}
[ $# -gt 0 ] || set -- toys

for name in "$@"; do
  if [ "$name" != toys ] && [ "$name" != beauty ]; then
    echo "$name: the names are toys and beauty" >&2
    exit 2
  fi
  if [ ! -d "$data/$name" ]; then
    echo "$name: $data/$name is not there; DATA=FOLDER names the folder that holds it" >&2
    exit 2
  fi
done

for name in "$@"; do
  config=examples/$name/$name.toml
  [ -d "data/$name" ] || recrl data prepare amazon "$data/$name" --out "data/$name"
  [ -d "sids/$name" ] || recrl sid build "$config"
  recrl sft "$config" --set memory.weight=0 --resume
  [ -f "runs/$name/memory_tuning.json" ] || recrl tune "$config" --weights 0,2,4,8,16
  recrl bench methods "$config" --recipes recrl --seeds 3 --responses 576000 --validations 3 \
    --split test --out "runs/$name-compare"
  cp "runs/$name-compare/RESULTS.md" "examples/$name/RESULTS.md"
  cat "examples/$name/RESULTS.md"
done
