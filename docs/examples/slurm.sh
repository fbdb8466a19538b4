#!/bin/bash
# Two machines with four GPUs each:  sbatch docs/examples/slurm.sh my.toml
# Slurm itself starts one process for each GPU, so that the job ends with the run's own exit status, which a launcher would hide.
#SBATCH --job-name=lora-dojo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
config=${1:?give a config: sbatch slurm.sh my.toml}

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# The run saves and ends by itself before the job's time is up. The signal is for what comes earlier, such as preemption.
srun bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python train_network.py --config "$1" --resume latest --max_train_time 7h30m --progress false
' lora-dojo "$config"
status=$?

case $status in
6 | 143) # out of time, or asked to stop: the state is saved, and the next start continues from it
    scontrol requeue "$SLURM_JOB_ID"
    ;;
esac
exit "$status"
