// What crosses the C boundary. `structs.py` mirrors these field by field.
#pragma once

#include <cstdint>

extern "C" {

struct OaiShape {
    int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    int32_t element_bytes;  // of weights and caches: 2 is bf16, 4 is float
    float norm_eps, attention_scale;
};

// Matrices are row-major [outputs, inputs]. A pointer may be null where noted.
struct OaiLayer {
    const void *input_norm, *qkv;
    const void *qkv_bias, *query_norm, *key_norm;  // null: none
    const void *output, *post_norm, *gate_up, *down;
    int64_t window;  // sliding window in tokens; 0: none
};

struct OaiModel {
    OaiShape shape;
    const void *embedding, *final_norm, *lm_head;
    const OaiLayer* layers;
};

// One ragged step; rows lie one after another in the token arrays.
struct OaiStep {
    int32_t tokens, rows, max_blocks, block_size, kept;
    const int64_t *token_ids, *slots;                        // [tokens]
    const float *cosines, *sines;                            // [tokens, head_dim / 2]
    const float* query_scale;                                // [tokens]; null: none
    const int32_t *query_start, *context_len, *block_table;  // [rows + 1], [rows], [rows, max_blocks]
    void *key_cache, *value_cache;                           // [layers, blocks, block_size, kv_heads, head_dim]
    int64_t layer_stride;                                    // elements between two layers of a cache
    const int64_t* kept_tokens;                              // [kept] tokens whose hidden state is wanted
    float* hidden;                                           // [kept, hidden], after the final norm
};
}
