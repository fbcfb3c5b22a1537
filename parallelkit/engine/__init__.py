"""A call's way, top to bottom and back."""
