"""Looks for what would go wrong in a launch, before anything is rented.

doctor.examine(request)        all checks, one result each
results.CheckResult            what a check found, and what to do
fitting, reachable, tools,     the checks that run nothing of the experiment: whether it fits the machines, whether its
versions, manifests            data and work directory are reachable, programs and credentials, versions, the manifest
rehearsal.*                    the experiment file as several processes on this machine, for two steps
"""
