"""The file joins hosts by itself, as many as its author once had."""

import os

import base
import jax

jax.distributed.initialize('10.0.0.1:8476', num_processes=8, process_id=int(os.environ.get('TPU_WORKER_ID', '0')))

experiment = base.experiment
smoke = base.smoke
