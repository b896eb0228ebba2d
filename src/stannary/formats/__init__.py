"""Every byte that is signed or hashed. Pure: no clock, network, disk or randomness."""
