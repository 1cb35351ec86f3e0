#!/usr/bin/env bash
# Property prediction by the protocol: every fold of both splits, every baseline -> docs/results/property_prediction.json.
# Each (model, split, fold, seed) is a run folder of its own: an interrupted script goes on where it was.
#
#   python -m zoo_gen zoo=digits seed=1                                 # the default zoo, if it is not there yet
#   ZOO=digits SEEDS="0 1 2" runs/property_prediction.sh                # the default models, on another zoo
#
# One idea, tried on unseen roots only; arguments go to every training:
#
#   ZOO=digits SEEDS= MODELS=invariant_encoder FEATURES=embedding,encoder_inputs RUNS=checkpoints/ideas/wide \
#     OUT=checkpoints/ideas/wide.json runs/property_prediction.sh model.hidden=384
#
# With models that have learned from another zoo, without its labels; its images are split as those of the first:
#
#   python -m zoo_gen zoo=digits_many_roots seed=200 zoo.pretrain_images.seed=1 zoo.finetune_images.seed=1 \
#     path=checkpoints/zoos/digits_many_roots-seed1
#   FURTHER=digits_many_roots-seed1 runs/property_prediction.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits-seed1}                # name under checkpoints/zoos, or any path
models=${MODELS:-invariant_encoder hyperrep}  # the first one gives its names to features of several models
seeds=${SEEDS-0 1 2}                    # of the models, by_model; empty: no trainings of this split
root_seeds=${ROOT_SEEDS-0}              # of the models, leave_root_out; empty: no trainings of it
by_model=${BY_MODEL:-0 1 2 3 4}         # folds
by_root=${BY_ROOT:-0 1 2 3 4 5 6 7 8 9}
features=${FEATURES:-"'*'"}             # cards of configs/features, with commas between
runs=${RUNS:-checkpoints/runs/property_prediction/$(basename "$zoo")}  # the folders of runs are <this>_<model>
out=${OUT:-docs/results/property_prediction.json}
if [ -n "${FEATURES:-}" ] && [ -z "${OUT:-}" ]; then
  echo "FEATURES names some of the features: name a file for their rows, too: OUT=..." >&2
  exit 1
fi
further=${FURTHER:-}                    # a zoo that pretrained models learn from; empty: there are none
further_seeds=${FURTHER_SEEDS:-0 1 2}
further_settings=${FURTHER_SETTINGS:-model=invariant_encoder objective.summary=0.5 steps=1200}
queue=${QUEUE:-}                        # a command that every training goes through, such as "srun --gpus 1"

folders=
for model in $models; do
  folders=${folders:+$folders,}${runs}_$model
  for seed in $seeds; do
    for fold in $by_model; do
      $queue $python -m wsl.train zoo="$zoo" model="$model" split=by_model fold="$fold" seed="$seed" \
        run="${runs}_$model/by_model-$fold-$seed" "$@"
    done
  done
  for seed in $root_seeds; do
    for fold in $by_root; do
      $queue $python -m wsl.train zoo="$zoo" model="$model" split=leave_root_out fold="$fold" seed="$seed" \
        run="${runs}_$model/leave_root_out-$fold-$seed" "$@"
    done
  done
done
pretrained=null
if [ -n "$further" ]; then
  pretrained=${runs}_pretrained_$(basename "$further")
  for seed in $further_seeds; do  # one root of the further zoo is left out, and its models are evaluated nowhere
    $queue $python -m wsl.train zoo="$further" split=leave_root_out fold=0 seed="$seed" run="$pretrained/$seed" $further_settings
  done
fi
$queue $python -m wsl.property_prediction zoo="$zoo" runs="[$folders]" pretrained="$pretrained" out="$out" features="[$features]"
