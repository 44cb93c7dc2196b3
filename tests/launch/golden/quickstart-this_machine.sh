# ThisMachine()
# this machine: no price is known here.
# The code is launches/quickstart-7ba11333/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Starts it:
python -m bigmodel_jax train experiments/quickstart.py:smoke --workdir=/shared/runs/quickstart
