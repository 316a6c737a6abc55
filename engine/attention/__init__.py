"""Attention over pages, one backend a file; `registry` chooses."""
