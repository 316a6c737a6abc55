"""Tool calls in a model's output: one parser a format, one state machine for streaming and whole replies."""
