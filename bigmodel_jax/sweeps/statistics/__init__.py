"""Whether an effect is real and how large it is: intervals, tests, power, and when to stop an arm early.

Pure functions of numbers. They know no run directory and no experiment, and need NumPy and SciPy only: statsmodels
takes 4 seconds and 170 MB of memory to import, mostly for pandas, and what it would be needed for is Holm's correction
and one least-squares fit. It is the reference that the tests compare with.
"""
