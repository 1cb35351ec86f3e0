#!/usr/bin/env bash
# Property prediction by the protocol: every fold of both splits, every baseline -> docs/results/property_prediction.json.
# Each (split, fold, seed) is a run folder of its own: an interrupted script goes on where it was.
#
#   python -m zoo_gen zoo=digits seed=1                                 # the default zoo, if it is not there yet
#   ZOO=digits SEEDS="0 1 2" runs/property_prediction.sh model.width=64 objective=...     # arguments go to every training
#
# One idea, asked about unseen roots only:
#
#   ZOO=digits SEEDS= INPUTS=hyperrep,encoder_inputs RUNS=checkpoints/ideas/no_headings OUT=checkpoints/ideas/no_headings.json \
#     runs/property_prediction.sh model_encoder.encoder.headings=0
#
# With representations that have learned from another zoo as well, without its labels; its images are split as those of the zoo:
#
#   python -m zoo_gen zoo=digits_many_roots seed=200 zoo.pretrain_images.seed=1 zoo.finetune_images.seed=1 \
#     path=checkpoints/zoos/digits_many_roots-seed1
#   FURTHER=digits_many_roots-seed1 runs/property_prediction.sh         # FURTHER_SEEDS="0 1 2" FURTHER_SETTINGS="model_encoder=many_roots"
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits-seed1}                # name under checkpoints/zoos, or any path
seeds=${SEEDS-0 1 2}                    # of the representation, by_model; empty: no trainings of this split
root_seeds=${ROOT_SEEDS-0}              # of the representation, leave_root_out; empty: no trainings of it
by_model=${BY_MODEL:-0 1 2 3 4}         # folds
by_root=${BY_ROOT:-0 1 2 3 4 5 6 7 8 9}
inputs=${INPUTS:-"'*'"}                 # cards of configs/features that are asked, with commas between
steps=${STEPS:-1}                       # of the autoencoder of tokens, which latents of a model encoder do not depend on; 1200 without one
model=${MODEL:-hyperrep}
runs=${RUNS:-checkpoints/runs/property_prediction/$(basename "$zoo")_$model}
out=${OUT:-docs/results/property_prediction.json}
if [ -n "${INPUTS:-}" ] && [ -z "${OUT:-}" ]; then
  echo "INPUTS asks a part of the features: name a file for its rows, OUT=..." >&2
  exit 1
fi
further=${FURTHER:-}                    # a zoo that pretrained representations learn from; empty: none are asked
further_seeds=${FURTHER_SEEDS:-0 1 2}
further_settings=${FURTHER_SETTINGS:-model_encoder=many_roots}
queue=${QUEUE:-}                        # a command that every training goes through, such as "srun --gpus 1"

for seed in $seeds; do
  for fold in $by_model; do
    $queue $python -m wsl.train zoo="$zoo" model="$model" split=by_model fold="$fold" seed="$seed" steps="$steps" \
      run="$runs/by_model-$fold-$seed" "$@"
  done
done
for seed in $root_seeds; do
  for fold in $by_root; do
    $queue $python -m wsl.train zoo="$zoo" model="$model" split=leave_root_out fold="$fold" seed="$seed" steps="$steps" \
      run="$runs/leave_root_out-$fold-$seed" "$@"
  done
done
pretrained=null
if [ -n "$further" ]; then
  pretrained=${runs}_pretrained_$(basename "$further")
  for seed in $further_seeds; do  # a test root of the further zoo is left out, which nothing is asked about
    $queue $python -m wsl.train zoo="$further" model="$model" split=leave_root_out fold=0 seed="$seed" steps="$steps" \
      run="$pretrained/$seed" $further_settings "$@"
  done
fi
$queue $python -m wsl.property_prediction zoo="$zoo" runs="$runs" pretrained="$pretrained" out="$out" features="[$inputs]"
