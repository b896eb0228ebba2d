"""What work is worth and who has been paid: meter, double entry, escrow. Pure."""
