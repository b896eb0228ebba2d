"""Node side of a job: work directory, environment, sandbox, frames and logs."""
