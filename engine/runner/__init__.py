"""Execution of a step: tensors live here, policy does not."""
