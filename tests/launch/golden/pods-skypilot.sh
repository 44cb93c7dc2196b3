# SkyPilot(type='v5litepod-16')
# 16 chips v5e (spot): $19.20 an hour at the on-demand list price of $1.20 for a chip (us-central1, 2025-06, not looked up since); at most 24 hours, $460.80. Spot and reserved chips cost less.
# The code is launches/pods-bec08c17/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

cat > launches/pods-bec08c17/task.yaml <<'END_OF_FILE'
{
  "name": "pods-bec08c17-1",
  "resources": {
    "infra": "gcp",
    "accelerators": "tpu-v5litepod-16",
    "use_spot": true
  },
  "file_mounts": {
    "/tmp/code.tar": "launches/pods-bec08c17/code.tar"
  },
  "run": "set -e\necho \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  \"/tmp/code.tar | sha256sum --check --status || { echo 'launch: this host has other code than was checked: the SHA-256 of '/tmp/code.tar' is not 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' >&2; exit 2; }\ncode=$(mktemp --directory)\ntar --extract --no-same-owner --file=/tmp/code.tar --directory=\"$code\"\ncd \"$code\"\npython -m pip install -c \"$code/./constraints.txt\" \"$code/.[tpu]\" gcsfs\nexec python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name=\"It'\"'\"'s $HOME\"' --workdir=gs://my-bucket/pods"
}
END_OF_FILE

# Starts it:
sky jobs launch --name=pods-bec08c17-1 --yes --detach-run launches/pods-bec08c17/task.yaml

# Shows what the hosts printed, and ends it:
sky jobs logs --name=pods-bec08c17-1 --no-follow
sky jobs cancel --name=pods-bec08c17-1 --yes
