# ThisMachine()
# this machine: no price is known here.
# The code is launches/pods-5f34de8a/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Starts it:
python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name="It'"'"'s $HOME"' --workdir=/shared/runs/pods
