"""Collectors: how a node gathers evidence about itself. The I/O side of certify; nothing here judges."""
