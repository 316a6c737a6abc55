"""Paged KV memory: blocks, their sharing and their reuse. No tensors here but in kv_layout."""
