#!/usr/bin/env bash
# The whole road: zoo -> two encoders of its checkpoints -> probes -> new ViTs -> report. Each step reuses what is complete.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
run=checkpoints/runs/demo
encoder=checkpoints/runs/demo_invariant_encoder

# `beside NAME COMMAND` runs a command beside the next one, and `show` waits for it and prints its last lines.
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
beside() { log=checkpoints/$1.log; "${@:2}" > "$log" 2>&1 & }
show() { wait $! || { cat "$log" >&2; exit 1; }; tail -n "$1" "$log"; }

$python -m zoo_gen zoo=digits_mini
beside demo_invariant_encoder $python -m wsl.train zoo=digits_mini model=invariant_encoder run=demo_invariant_encoder
$python -m wsl.train zoo=digits_mini model=hyperrep run=demo steps=60 rehearsed=42 rehearsal.steps=22 # quick; more of each is better
show 1
[ $run/probe.json -nt $run/model.safetensors ] && [ $run/probe.json -nt $encoder/model.safetensors ] ||
  { beside demo_probe $python -m wsl.probe run=demo beside=[demo_invariant_encoder]; probed=$!; }
[ $run/generate.json -nt $run/model.safetensors ] || $python -m wsl.generate run=demo generator=refined_task_vectors generator.steps=0 n=100 +scan.refined_copy.steps=[0] +scan.refined_root.steps=[0] ~scan.dirichlet ~scan.weight_gaussian # quick; 200 samples, steps and all settings for figures to be quoted
[ -z "${probed:-}" ] || show +1
$python -m wsl.report run=demo
