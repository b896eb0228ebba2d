"""What both sides of the sandbox's border agree on: frames, paths, variables, blobs, how a process ended."""
