"""State machines of a job and the decisions of its rounds: tables and pure functions, no clock, no I/O."""
