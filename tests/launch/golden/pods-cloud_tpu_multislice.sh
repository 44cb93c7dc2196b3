# CloudTpu(type='v5p-128', zone='us-east5-a', project='my-project', slices=4, reserved=True)
# 256 chips v5p in 4 slices (reserved, 64 hosts): $1,075.20 an hour at the on-demand list price of $4.20 for a chip (us-east5, 2025-06, not looked up since); at most 24 hours, $25,804.80. Spot and reserved chips cost less.
# The code is launches/pods-bec08c17/code.tar, with the SHA-256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.

# Once for the project and the bucket:
gcloud auth login
gcloud services enable tpu.googleapis.com --project=my-project
gcloud storage buckets create gs://my-bucket --location=us-east5 --project=my-project

cat > launches/pods-bec08c17/startup.sh <<'END_OF_FILE'
#!/usr/bin/env bash
# Runs on each of 64 hosts: python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name="It'"'"'s $HOME"' --workdir=gs://my-bucket/pods
set -uo pipefail
export HOME=/root
store=gs://my-bucket/pods.launch/cdd4459ad205; here=gs://my-bucket/pods.launch/cdd4459ad205/1; host=$(hostname); log=/var/log/launch.log
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
  echo started | gcloud storage cp - "$here/started/$host"
  export PATH=/opt/launch/bin:$PATH
  exec python -m bigmodel_jax train experiments/pods.py:sweep/llama2_7b_v5e '--set=name="It'"'"'s $HOME"' --workdir=gs://my-bucket/pods
)
send() { gcloud storage cp "$log" "$here/log/$host"; }
run > "$log" 2>&1 & command=$!
while sleep 60; do send; done & sender=$!
trap 'kill -TERM $command' TERM
wait $command; status=$?
while kill -0 $command 2>/dev/null; do wait $command; status=$?; done
kill $sender; send
echo $status | gcloud storage cp - "$here/status/$host"
if [ "$(gcloud storage ls "$here/status/*" | wc -l)" -ge 64 ]; then
  gcloud compute tpus queued-resources delete pods-bec08c17-1 --zone=us-east5-a --project=my-project --force --async --quiet  # The last host: nothing is left running.
fi
END_OF_FILE

# Starts it:
gcloud storage cp launches/pods-bec08c17/code.tar gs://my-bucket/pods.launch/cdd4459ad205/code.tar
gcloud compute tpus queued-resources create pods-bec08c17-1 --zone=us-east5-a --project=my-project --node-count 4 --node-prefix pods-bec08c17-1 --accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --scopes=https://www.googleapis.com/auth/cloud-platform --valid-until-duration=24h --metadata-from-file=startup-script=launches/pods-bec08c17/startup.sh --reserved --async --quiet

# Shows what the hosts printed, and ends it:
gcloud storage cat --display-url 'gs://my-bucket/pods.launch/cdd4459ad205/1/log/*'
gcloud compute tpus queued-resources delete pods-bec08c17-1 --zone=us-east5-a --project=my-project --force --async --quiet
