# SimulatedHosts(hosts=2, devices=4)
# 2 processes on this machine with 4 simulated devices each: no price is known here.
# The code is launches/vaswani2017-c1da9d98/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Starts it:
python -m bigmodel_jax.hosts 2 4 -- train experiments/vaswani2017.py --workdir=/shared/runs/vaswani2017
