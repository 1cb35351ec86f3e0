#!/usr/bin/env bash
# Models of one zoo, probed on another, wider and deeper one of other images -> docs/results/transfer.json, .md, .svg.
# The runs are those of runs/property_prediction.sh; the other zoo is made first (72 fine-tuned ViTs, minutes on two cores).
#
#   ZOO=digits-seed1 runs/transfer.sh selections=10                    # arguments go to wsl.transfer
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits-seed1}                # that the runs were trained on: name under checkpoints/zoos, or any path
other=${OTHER:-checkpoints/zoos/digits_wide}
models=${MODELS:-invariant_encoder hyperrep}  # the first one gives its names to features of several models
runs=${RUNS:-checkpoints/runs/property_prediction/$(basename "$zoo")}  # the folders of runs are <this>_<model>
out=${OUT:-docs/results/transfer.json}

folders=
for model in $models; do
  folders=${folders:+$folders,}${runs}_$model
done
$python -m zoo_gen zoo=digits_mini path="$other" \
  zoo.architecture.model_args.embed_dim=48 zoo.architecture.model_args.depth=4 \
  'zoo.pretrain_images.classes=[5,6,7,8,9]' 'zoo.finetune_images.classes=[0,1,2,3,4]'
$python -m wsl.transfer run_zoo="$zoo" runs="[$folders]" zoo="$other" out="$out" "$@"
