# SimulatedHosts(hosts=2, devices=4)
# 2 processes on this machine with 4 simulated devices each: no price is known here.
# The code is launches/quickstart-7ba11333/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Starts it:
python -m bigmodel_jax.hosts 2 4 -- train experiments/quickstart.py:smoke --workdir=/shared/runs/quickstart
