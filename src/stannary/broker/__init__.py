"""The buyer's broker: holds the beacon seed and reveals one value per checked checkpoint."""
