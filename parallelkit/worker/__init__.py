"""What runs where the items run."""
