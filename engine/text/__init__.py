"""Token ids to text and back, without torch."""
