"""The command line. Imports nothing: `stannary --help` must stay under 200 ms of CPU."""
