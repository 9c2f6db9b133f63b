#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=3
#SBATCH --error=FOLDER/study/slurm/%j_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=groundup
#SBATCH --mem=16GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/study/slurm/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@90
#SBATCH --time=90
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/study/slurm/%j_%t_log.out --error FOLDER/study/slurm/%j_%t_log.err PYTHON -u -m submitit.core._submit FOLDER/study/slurm
