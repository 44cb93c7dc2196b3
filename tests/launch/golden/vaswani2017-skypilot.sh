# SkyPilot(type='v5litepod-16')
# 16 chips v5e (spot): $19.20 an hour at the on-demand list price of $1.20 for a chip (us-central1, 2025-06, not looked up since); at most 24 hours, $460.80. Spot and reserved chips cost less.
# The code is launches/vaswani2017-68aa3b09/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

cat > launches/vaswani2017-68aa3b09/task.yaml <<'END_OF_FILE'
{
  "name": "vaswani2017-68aa3b09-1",
  "resources": {
    "infra": "gcp",
    "accelerators": "tpu-v5litepod-16",
    "use_spot": true
  },
  "file_mounts": {
    "/tmp/code.tar": "launches/vaswani2017-68aa3b09/code.tar"
  },
  "secrets": {
    "HF_TOKEN": null
  },
  "run": "set -e\necho \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  \"/tmp/code.tar | sha256sum --check --status || { echo 'launch: this host has other code than was checked: the SHA-256 of '/tmp/code.tar' is not 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' >&2; exit 2; }\ncode=$(mktemp --directory)\ntar --extract --no-same-owner --file=/tmp/code.tar --directory=\"$code\"\ncd \"$code\"\npython -m pip install -c \"$code/./constraints.txt\" \"$code/.[tpu]\" gcsfs\nexec python -m bigmodel_jax train experiments/vaswani2017.py --workdir=gs://my-bucket/vaswani2017"
}
END_OF_FILE

# Starts it:
sky jobs launch --name=vaswani2017-68aa3b09-1 --yes --detach-run --secret HF_TOKEN launches/vaswani2017-68aa3b09/task.yaml

# Shows what the hosts printed, and ends it:
sky jobs logs --name=vaswani2017-68aa3b09-1 --no-follow
sky jobs cancel --name=vaswani2017-68aa3b09-1 --yes
