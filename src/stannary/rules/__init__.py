"""What several planes must agree on, said once: draws, verdicts, prices, paces, masks. Pure; knows `formats` only."""
