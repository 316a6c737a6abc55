"""Clients as people use them, against a running server; with a peer, every request goes to both (README.md)."""
