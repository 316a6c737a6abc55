"""Who runs next: policies as objects, and the scheduler that keeps the books."""
