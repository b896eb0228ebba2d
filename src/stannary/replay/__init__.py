"""The process that computes units of a receipt again for whoever verifies it."""
