# CloudTpu(type='v5litepod-16', zone='us-west4-a', project='my-project', spot=True)
# 16 chips v5e (spot, 4 hosts): $19.20 an hour at the on-demand list price of $1.20 for a chip (us-central1, 2025-06, not looked up since); at most 24 hours, $460.80. Spot and reserved chips cost less.
# The code is launches/vaswani2017-68aa3b09/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Once for the project and the bucket:
gcloud auth login
gcloud services enable tpu.googleapis.com --project=my-project
gcloud storage buckets create gs://my-bucket --location=us-west4 --project=my-project

cat > launches/vaswani2017-68aa3b09/startup.sh <<'END_OF_FILE'
#!/usr/bin/env bash
# Runs on each of 4 hosts: python -m bigmodel_jax train experiments/vaswani2017.py --workdir=gs://my-bucket/vaswani2017
set -uo pipefail
export HOME=/root
store=gs://my-bucket/vaswani2017.launch/67c2d77a0565; here=gs://my-bucket/vaswani2017.launch/67c2d77a0565/1; host=$(hostname); log=/var/log/launch.log
gcloud storage ls "$here/status/$host" && exit
run() (
  set -e
  work=$(mktemp --directory); cd "$work"
  gcloud storage cp "$store/code.tar" code.tar
  echo "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  "code.tar | sha256sum --check --status || { echo 'launch: this host has other code than was checked: the SHA-256 of 'code.tar' is not 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' >&2; exit 2; }
  tar --extract --no-same-owner --file=code.tar
  python3 -m pip install --quiet uv
  python3 -m uv venv --quiet --python 3.11 /opt/launch
  python3 -m uv pip install --quiet --python /opt/launch/bin/python \
    -c ./constraints.txt "./.[tpu]" gcsfs
  HF_TOKEN=$(gcloud secrets versions access latest --secret=HF_TOKEN --project=my-project); export HF_TOKEN
  echo started | gcloud storage cp - "$here/started/$host"
  export PATH=/opt/launch/bin:$PATH
  exec python -m bigmodel_jax train experiments/vaswani2017.py --workdir=gs://my-bucket/vaswani2017
)
send() { gcloud storage cp "$log" "$here/log/$host"; }
run > "$log" 2>&1 & command=$!
while sleep 60; do send; done & sender=$!
trap 'kill -TERM $command' TERM
wait $command; status=$?
while kill -0 $command 2>/dev/null; do wait $command; status=$?; done
kill $sender; send
echo $status | gcloud storage cp - "$here/status/$host"
if [ "$(gcloud storage ls "$here/status/*" | wc -l)" -ge 4 ]; then
  gcloud compute tpus queued-resources delete vaswani2017-68aa3b09-1 --zone=us-west4-a --project=my-project --force --async --quiet  # The last host: nothing is left running.
fi
END_OF_FILE

# Starts it:
gcloud storage cp launches/vaswani2017-68aa3b09/code.tar gs://my-bucket/vaswani2017.launch/67c2d77a0565/code.tar
gcloud compute tpus queued-resources create vaswani2017-68aa3b09-1 --zone=us-west4-a --project=my-project --node-id vaswani2017-68aa3b09-1 --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --scopes=https://www.googleapis.com/auth/cloud-platform --valid-until-duration=24h --metadata-from-file=startup-script=launches/vaswani2017-68aa3b09/startup.sh --spot --async --quiet

# Shows what the hosts printed, and ends it:
gcloud storage cat --display-url 'gs://my-bucket/vaswani2017.launch/67c2d77a0565/1/log/*'
gcloud compute tpus queued-resources delete vaswani2017-68aa3b09-1 --zone=us-west4-a --project=my-project --force --async --quiet
