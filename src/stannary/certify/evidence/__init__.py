"""Evidence verifiers, one pure module a kind: `parse`, `collateral_keys`, `appraise`."""
