"""How long an operation on the storage that failed waits before each further try, in seconds."""

OPERATION_S: tuple[float, ...] = (0.1, 0.4, 1.5)  # Of one file.
LOG_S: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # Of the records that are left when a log is closed.
CHECKPOINT_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # Of the last checkpoint of a session.
