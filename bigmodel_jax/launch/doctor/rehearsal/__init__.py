"""The experiment file as several processes on this machine, for two steps, before hosts are rented that do the same.

rehearsal.rehearse(order, folder)   starts the processes, and ends them in bounded time
host.run(folder, host)              what each process does, and writes into its record
instruments                         host names, writes, starts of processes and stacks, as a process sees them
programs                            where the compiled programs of two hosts differ, in a person's own code
suspects                            lines of a person's own code that may differ from host to host or from time to time
judging.results_of(outcome)         the results of the checks, from the records of all hosts
"""
