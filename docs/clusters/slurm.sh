#!/bin/bash
# One study on a Slurm cluster, from the folder of the clone in which `make venv` was called:
#   sbatch docs/clusters/slurm.sh my-study.yaml
# After a time limit or a lost head, the same command goes on from the last checkpoints. The clone,
# the home folder and OAT_STORAGE lie on a file system that all nodes share. MLflow must be a server:
# SQLite on a network file system is unsafe.
# Checked by shellcheck, and run with stand-ins for Slurm in a test; not tried on Slurm yet.

#SBATCH --job-name=oat-study
#SBATCH --output=oat-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
# whole nodes: `ray symmetric-run` ends with `ray stop`, which ends every Ray of yours on the node
#SBATCH --exclusive
# a lost worker does not end the job; when the head is lost, Slurm starts the job again
#SBATCH --no-kill
#SBATCH --requeue

set -euo pipefail
study=${1:?usage: sbatch docs/clusters/slurm.sh STUDY}
storage=${OAT_STORAGE:-/shared/studies}
tracking=${MLFLOW_TRACKING_URI:?must name an MLflow server, such as http://HOST:5000}

cd "${SLURM_SUBMIT_DIR:?}"
PATH=$PWD/.venv/bin:$PATH

# Ray's token, in the shared home folder, readable by you alone; made the first time
export RAY_AUTH_MODE=token
(umask 077 && ray get-auth-token --generate >/dev/null)

# This script runs on the first node, which becomes the head. An address and no name: on some systems
# a node's own name is 127.0.1.1 to itself, and then no node would take itself for the head.
read -r head _ < <(hostname --all-ip-addresses)
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 # 30 seconds are short on a shared file system

# Each node starts Ray; the head waits for all, runs what stands behind `--`, and stops them
code=0
srun --no-kill --wait=0 --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats \
  -- \
  oat run "$study" --address "$head:6379" --storage "$storage" --tracking-uri "$tracking" ||
  code=$?

# `ray symmetric-run` ends with 0 also when Ray did not start: what is done stands here
oat status "$study" --storage "$storage"
exit "$code"
