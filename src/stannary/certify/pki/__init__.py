"""Public keys and who vouches for them: DER, names, keys, certificates, revocation."""
