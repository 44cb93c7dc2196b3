# ThisMachine()
# this machine: no price is known here.
# The code is launches/vaswani2017-c1da9d98/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Starts it:
python -m bigmodel_jax train experiments/vaswani2017.py --workdir=/shared/runs/vaswani2017
