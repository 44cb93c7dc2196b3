# SlurmNodes(partition='main', gres='gpu:8', nodes=2, minutes=240)
# 2 nodes of a Slurm cluster with gpu:8 each, for 240 minutes at a time: no price is known here.
# The code is launches/vaswani2017-c1da9d98/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

cat > launches/vaswani2017-c1da9d98/job.sh <<'END_OF_FILE'
#!/usr/bin/env bash
#SBATCH --job-name=vaswani2017-c1da9d98-1
#SBATCH --partition=main
#SBATCH --gres=gpu:8
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=240
#SBATCH --signal=USR2@120
#SBATCH --export=PATH,HOME,USER,HF_TOKEN
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --parsable
#SBATCH --output=launches/vaswani2017-c1da9d98/attempt-1.log
set -u
cd launches/vaswani2017-c1da9d98
srun --mpi=none --kill-on-bad-exit=1 bash worker.sh
status=$?
echo "$status" > status-1
exit $status
END_OF_FILE

cat > launches/vaswani2017-c1da9d98/worker.sh <<'END_OF_FILE'
#!/usr/bin/env bash
# Runs: python -m bigmodel_jax train experiments/vaswani2017.py --workdir=/shared/runs/vaswani2017
set -euo pipefail
echo "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  "launches/vaswani2017-c1da9d98/code.tar | sha256sum --check --status || { echo 'launch: this host has other code than was checked: the SHA-256 of 'launches/vaswani2017-c1da9d98/code.tar' is not 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' >&2; exit 2; }
code=$(mktemp --directory)
tar --extract --no-same-owner --file=launches/vaswani2017-c1da9d98/code.tar --directory="$code"
cd "$code"
export PYTHONPATH="$code/.${PYTHONPATH:+:$PYTHONPATH}"
exec python -m bigmodel_jax train experiments/vaswani2017.py --workdir=/shared/runs/vaswani2017
END_OF_FILE

# Starts it:
sbatch launches/vaswani2017-c1da9d98/job.sh

# Shows what the hosts printed, and ends it:
tail --lines=200 launches/vaswani2017-c1da9d98/attempt-1.log
scancel --name=vaswani2017-c1da9d98-1
