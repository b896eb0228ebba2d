"""Which nodes hold the lanes of a job, and why every other node does not. Pure."""
