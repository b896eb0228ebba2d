"""What may be believed: draws, verdicts, soundness, money and receipts, recomputed from signed records. Pure."""
