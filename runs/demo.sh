#!/usr/bin/env bash
# The whole road: zoo -> two encoders of its checkpoints -> probes -> new ViTs -> report. Each step reuses what is complete.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
run=checkpoints/runs/demo
encoder=checkpoints/runs/demo_invariant_encoder

$python -m zoo_gen zoo=digits_mini
# a training takes one core: the second one runs beside the first and prints when it is done
$python -m wsl.train zoo=digits_mini model=invariant_encoder run=demo_invariant_encoder > checkpoints/demo_invariant_encoder.log 2>&1 &
$python -m wsl.train zoo=digits_mini model=hyperrep run=demo steps=60 rehearsed=42 rehearsal.steps=44 # quick; more of each is better
wait $! || { cat checkpoints/demo_invariant_encoder.log >&2; exit 1; }
tail -n 1 checkpoints/demo_invariant_encoder.log
[ $run/probe.json -nt $run/model.safetensors ] && [ $run/probe.json -nt $encoder/model.safetensors ] ||
  $python -m wsl.probe run=demo beside=[demo_invariant_encoder]
[ $run/generate.json -nt $run/model.safetensors ] || $python -m wsl.generate run=demo generator=kde n=100 ~scan.dirichlet ~scan.weight_gaussian # quick; 200 samples and all settings for figures to be quoted
$python -m wsl.report run=demo
