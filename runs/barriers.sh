#!/usr/bin/env bash
# Loss barriers between independently trained roots, width 32 and 64, after each kind of alignment: docs/results/barriers.json.
# About 9 minutes of one core, more on a busy machine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
seed=${SEED:-0}

members='[{seed: 0}, {seed: 1}, {seed: 2}, {seed: 3}, {seed: 4}, {seed: 5}, {seed: 6}]'
for width in 32 64; do
  $python -m zoo_gen zoo=digits_mini "zoo.pretrain.members=$members" zoo.pretrain.recipe.epochs=30 \
    'zoo.finetune.axes={head: [linear]}' zoo.finetune.recipe.epochs=1 zoo.architecture.model_args.embed_dim=$width \
    seed="$seed" path="checkpoints/zoos/digits_roots_$width"
done
$python -m benchmarks.barriers checkpoints/zoos/digits_roots_32 checkpoints/zoos/digits_roots_64 --out docs/results/barriers.json
