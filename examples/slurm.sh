#!/usr/bin/env bash
# Many prompts on many machines: each task of the array is a worker on one folder, and takes rows until all are made.
#     PROMPTS=prompts.csv OUT=videos sbatch examples/slurm.sh
#SBATCH --job-name=videos
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --requeue
set -euo pipefail
exec bwcache generate --prompts "${PROMPTS:-prompts.csv}" --out "${OUT:-videos}"
