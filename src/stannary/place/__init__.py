"""Which nodes hold the lanes of a job, at what price, and why every other node does not. Pure."""
