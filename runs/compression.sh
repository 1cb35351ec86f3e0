#!/usr/bin/env bash
# Accuracy that decoded models retain at 2, 4, 8 and 16 weights per latent number, trained with and without the behavioural objective
# -> docs/results/compression.json. Each training is a run folder of its own: an interrupted script goes on where it was.
#
#   ZOO=digits RATIOS="4" runs/compression.sh steps=1000     # arguments go to every training
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits}                      # name under checkpoints/zoos, or any path
fold=${FOLD:-0}                         # of by_model, whose models are tested
seed=${SEED:-0}
ratios=${RATIOS:-2 4 8 16}              # model.compression_ratio
runs=${RUNS:-checkpoints/runs/compression/$(basename "$zoo")-$fold-$seed}
out=${OUT:-docs/results/compression.json}
queue=${QUEUE:-}                        # a command that every training goes through, such as "nice -n 10"

for ratio in $ratios; do
  for objective in reconstruction behaviour; do
    $queue $python -m wsl.train zoo="$zoo" fold="$fold" seed="$seed" model=hyperrep model.compression_ratio="$ratio" \
      objective=$objective run="$runs/${ratio}x_$objective" "$@"
  done
done
$queue $python -m wsl.compression "$runs"/* --out "$out"
