"""The command line: one file for each verb, with its summary, its arguments and what it runs.

A verb's file imports the libraries it needs inside its run(), so that --help starts at once.
"""

# In the order in which --help lists them. Each is the name of a module of this package that defines VERB.
VERBS = (
    'show',
    'check',
    'describe',
    'plan',
    'train',
    'doctor',
    'launch',
    'sweep',
    'trial',
    'evaluate',
    'sample',
    'report',
    'runs',
    'watch',
    'serve',
    'diff',
    'verify',
    'replay',
    'profile',
    'export',
    'compress',
    'convert',
    'certify',
)
