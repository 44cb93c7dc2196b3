"""Before a sweep runs: what it costs, by how much its arms are not equal, what was tried, and what may be spent."""
