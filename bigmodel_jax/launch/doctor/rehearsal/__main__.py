"""`python -m bigmodel_jax.launch.doctor.rehearsal FOLDER HOST COORDINATOR`: one process of a rehearsal."""

from bigmodel_jax.launch.doctor.rehearsal import host

if __name__ == '__main__':
    host.main()
