"""Sandboxes for an untrusted job, strongest first: bubblewrap, then namespaces of our own with Landlock."""
