#!/usr/bin/env bash
# Samplers of all classes beside all baselines, on one run -> docs/results/generation_<zoo>.json.
# An interrupted script trains on where it was, and draws its samples again.
#
#   ZOO=digits-seed1 runs/generation.sh
#   ZOO=digits N=100 GENERATORS="task_vectors refined_task_vectors" runs/generation.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits}                      # name under checkpoints/zoos, or any path
fold=${FOLD:-0}                         # whose models are held out: they are the scale
seed=${SEED:-0}
n=${N:-200}                             # samples of each row
generators=${GENERATORS:-task_vectors distilled_task_vectors refined_task_vectors kde}
run=${RUN:-checkpoints/runs/generation/$(basename "$zoo")-$fold-$seed}
out=${OUT:-docs/results/generation_$(basename "$zoo").json}

$python -m wsl.train zoo="$zoo" fold="$fold" seed="$seed" model=hyperrep run="$run" "$@"
for generator in $generators; do
  $python -m wsl.generate run="$run" generator="$generator" n="$n" seed="$seed"
done
cp "$run/generate.json" "$out"
