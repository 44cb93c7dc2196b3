# SlurmNodes(partition='main', gres='gpu:8', nodes=2, minutes=240)
# 2 nodes of a Slurm cluster with gpu:8 each, for 240 minutes at a time: no price is known here.
# The code is launches/pods-5f34de8a/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

cat > launches/pods-5f34de8a/job.sh <<'END_OF_FILE'
#!/usr/bin/env bash
#SBATCH --job-name=pods-5f34de8a-1
#SBATCH --partition=main
#SBATCH --gres=gpu:8
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=240
#SBATCH --signal=USR2@120
#SBATCH --export=PATH,HOME,USER
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --parsable
#SBATCH --output=launches/pods-5f34de8a/attempt-1.log
set -u
cd launches/pods-5f34de8a
srun --mpi=none --kill-on-bad-exit=1 bash worker.sh
status=$?
echo "$status" > status-1
exit $status
END_OF_FILE

cat > launches/pods-5f34de8a/worker.sh <<'END_OF_FILE'
#!/usr/bin/env bash
# Runs: python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name="It'"'"'s $HOME"' --workdir=/shared/runs/pods
set -euo pipefail
echo "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  "launches/pods-5f34de8a/code.tar | sha256sum --check --status || { echo 'launch: this host has other code than was checked: the SHA-256 of 'launches/pods-5f34de8a/code.tar' is not 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' >&2; exit 2; }
code=$(mktemp --directory)
tar --extract --no-same-owner --file=launches/pods-5f34de8a/code.tar --directory="$code"
cd "$code"
export PYTHONPATH="$code/.${PYTHONPATH:+:$PYTHONPATH}"
exec python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name="It'"'"'s $HOME"' --workdir=/shared/runs/pods
END_OF_FILE

# Starts it:
sbatch launches/pods-5f34de8a/job.sh

# Shows what the hosts printed, and ends it:
tail --lines=200 launches/pods-5f34de8a/attempt-1.log
scancel --name=pods-5f34de8a-1
