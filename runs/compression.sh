#!/usr/bin/env bash
# Accuracy that decoded models retain at 4, 8 and 16 weights per number, and of a root that training has not seen
# -> docs/results/compression_<zoo>.json. Each training is a run folder of its own: an interrupted script goes on where it was.
#
#   ZOO=digits-seed1 runs/compression.sh
#   ZOO=cifar_small RATIOS="16" UNSEEN= runs/compression.sh steps=200     # arguments go to every training
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits}                      # name under checkpoints/zoos, or any path
fold=${FOLD:-0}                         # whose models are tested
seed=${SEED:-0}
ratios=${RATIOS:-4 8 16}                # model.compression_ratio
unseen=${UNSEEN-16}                     # the same, split by roots; empty for none
runs=${RUNS:-checkpoints/runs/compression/$(basename "$zoo")-$fold-$seed}
out=${OUT:-docs/results/compression_$(basename "$zoo").json}
queue=${QUEUE:-}                        # a command that every training goes through, such as "nice -n 10"

train() { $queue $python -m wsl.train zoo="$zoo" fold="$fold" seed="$seed" model=hyperrep "$@"; }

for ratio in $ratios; do
  train model.compression_ratio="$ratio" run="$runs/${ratio}x" "$@"
done
for ratio in $unseen; do
  train split=leave_root_out model.compression_ratio="$ratio" run="$runs/${ratio}x_unseen_root" "$@"
done
$queue $python -m wsl.compression "$runs"/* --out "$out"
