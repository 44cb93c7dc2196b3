"""Starts runs on other machines, and sees them through preemptions to their end.

launching.launch(job, target, directory)   starts a run, or goes on watching one; launching.status(), logs(), stop()
targets.*                                  where: ThisMachine, SimulatedHosts, SlurmNodes, CloudTpu, Gke, SkyPilot
targets.target.parse("CloudTpu(...)")      the target that --on names
job.Job                                    what is started, and the name and hash of the code that is packed for it
code.pack()                                the repository with its uncommitted changes as one archive, with its SHA-256
dry_run.render()                           every file and command that launch() would use, as text
states.Record, states.turn()               the state machine, and its record on disk
programs.run()                             the only function that starts a program of another party
"""
