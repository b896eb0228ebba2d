"""What runs inside the sandbox beside the buyer's code; it can reach no key, no market and no network client."""
