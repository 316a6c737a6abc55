"""Fused Triton kernels of the CUDA forward pass, each with a plain torch reference in `engine.kernels.reference`.

Every launcher runs on the current stream; those of the forward pass take `pdl`: programmatic dependent
launch, where a kernel's start overlaps the tail of the one before it. A kernel launched so waits for its predecessor
before it touches anything that one wrote.
"""
