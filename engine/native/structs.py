"""`model.h` field by field, for ctypes."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p


class Shape(Structure):
    _fields_ = (
        ("layers", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("vocab", c_int32),
        ("element_bytes", c_int32),
        ("norm_eps", c_float),
        ("attention_scale", c_float),
    )


class Layer(Structure):
    _fields_ = (
        ("input_norm", c_void_p),
        ("qkv", c_void_p),
        ("qkv_bias", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("output", c_void_p),
        ("post_norm", c_void_p),
        ("gate_up", c_void_p),
        ("down", c_void_p),
        ("window", c_int64),
    )


class Model(Structure):
    _fields_ = (
        ("shape", Shape),
        ("embedding", c_void_p),
        ("final_norm", c_void_p),
        ("lm_head", c_void_p),
        ("layers", POINTER(Layer)),
    )


class Step(Structure):
    _fields_ = (
        ("tokens", c_int32),
        ("rows", c_int32),
        ("max_blocks", c_int32),
        ("block_size", c_int32),
        ("kept", c_int32),
        ("token_ids", c_void_p),
        ("slots", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("query_scale", c_void_p),
        ("query_start", c_void_p),
        ("context_len", c_void_p),
        ("block_table", c_void_p),
        ("key_cache", c_void_p),
        ("value_cache", c_void_p),
        ("layer_stride", c_int64),
        ("kept_tokens", c_void_p),
        ("hidden", c_void_p),
    )
