#!/usr/bin/env bash
# All that wants a GPU, the most valuable first, each as a process of its own with a time limit.
# usage, in the project's root, where torch, torchvision, numpy and pytest are installed:
#   benchmarks/on_gpu.sh OUT [EARLIER]     results as files of OUT; EARLIER is a checkout to compare with
# SMALL=1 tries the script in a minute or two, also without a GPU.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
against=(); [[ -n ${2:-} ]] && against=(--against "$2")
small=(); [[ -n ${SMALL:-} ]] && small=(--small)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

part() { # name, seconds, command
  local name=$1 limit=$2 began=$SECONDS; shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit $? after $((SECONDS - began)) s"
}
step() { # name, seconds, options
  local name=$1 limit=$2; shift 2
  part "$name" "$limit" python -m benchmarks.train_step "$@" "${against[@]}" "${small[@]}" --json "$out/$name.json"
}

short=(--rounds 3 --steps 5 --precision auto --earlier auto)
part tests 150 python -m pytest tests/gpu tests/oat/test_kernels.py -q -o addopts= -o filterwarnings= -p no:cacheprovider
step step-resnet34 150 --network resnet34 --methods oat "${short[@]}"
step step-resnet18 150 --network resnet18 --methods oat,pgd_at,trades,oats --no-plain "${short[@]}"
step step-resnet18-256 60 --network resnet18 --methods oat --batch 256 --no-plain --precision auto --rounds 3 --profile
part evaluate 60 python -m benchmarks.evaluate --rounds 1 --images 1000 "${against[@]}" "${small[@]}" --json "$out/evaluate.json"
part inference 60 python -m benchmarks.inference "${against[@]}" "${small[@]}" --json "$out/inference.json"
