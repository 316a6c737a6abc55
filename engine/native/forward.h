// A whole ragged step of a dense Qwen model: token ids in, logits out. Residuals and sums stay in float; operands
// are float or bf16 as `simd.h` says; keys and values are rounded to the cache's type. Layers as in Qwen 1 to 3:
// norm, qkv (+ bias) (+ norm of each head), rotary embedding, attention, output, norm, gated SiLU.
#pragma once

#include "attention.h"
#include "model.h"

namespace oai {

// put(i, x[i] / rms(x) * weight[i]) for all i.
template <class W, class Put>
INLINE void normalize(const float* x, const W* weight, int size, float eps, const Put& put) {
    Floats squares = {};
    for (int i = 0; i < size; i += LANES) {
        Floats v = load<Floats>(x + i);
        squares = fused(v, v, squares);
    }
    float scale = 1.0f / std::sqrt(sum(squares) / float(size) + eps);
    for (int i = 0; i < size; i++) put(i, x[i] * scale * to_float(weight[i]));
}

// Rotates the pairs (i, i + dim / 2), the GPT-NeoX way.
inline void rotate(float* x, const float* cosines, const float* sines, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

template <class W>
class Forward {
   public:
    Forward(Pool& pool, const OaiModel& model)
        : pool_(pool), model_(model), shape_(model.shape), layers_(model.layers, model.layers + shape_.layers) {}

    void run(const OaiStep& step) {
        reserve(step.tokens);
        rows_ = step.tokens;
        const W* embedding = static_cast<const W*>(model_.embedding);
        each_row([&](int t) {
            const W* from = embedding + step.token_ids[t] * shape_.hidden;
            for (int i = 0; i < shape_.hidden; i++) residual_row(t)[i] = to_float(from[i]);
        });
        for (int i = 0; i < shape_.layers; i++) layer(i, step);
        each_row([&](int t) {
            float* to = step.hidden + long(t) * shape_.hidden;
            normalize(residual_row(t), static_cast<const W*>(model_.final_norm), shape_.hidden, shape_.norm_eps,
                      [&](int i, float x) { to[i] = x; });
        });
    }

    // hidden [rows, hidden] -> logits [rows, vocab]
    void logits(const float* hidden, int rows, float* logits) {
        reserve(rows);
        rows_ = rows;
        each_row([&](int t) {
            for (int i = 0; i < shape_.hidden; i++)
                assign(normed_[long(t) * shape_.hidden + Format<W>::place(i)], hidden[long(t) * shape_.hidden + i]);
        });
        linear<W>(pool_, static_cast<const W*>(model_.lm_head), shape_.vocab, shape_.hidden, normed_.data(), rows_,
                  sums_.data(), [&](int m, int n, int count, const float* y) {
                      memcpy(logits + long(m) * shape_.vocab + n, y, sizeof(float) * count);
                  });
    }

   private:
    float* residual_row(int t) { return residual_.data() + long(t) * shape_.hidden; }

    void reserve(int tokens) {
        size_t t = tokens, heads = size_t(shape_.heads) * shape_.head_dim;
        auto grow = [](auto& buffer, size_t size) {
            if (buffer.size() < size) buffer.resize(size);
        };
        grow(residual_, t * shape_.hidden);
        grow(normed_, t * shape_.hidden);
        grow(qkv_, t * qkv_width());
        grow(queries_, t * heads);
        grow(attended_, t * heads);
        grow(gated_, t * shape_.intermediate);
        grow(sums_, t * MAX_PIECE * pool_.size());
    }

    int qkv_width() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

    template <class Body>
    void each_row(const Body& body) {
        constexpr int GRAIN = 8;  // a few rows are not worth waking anybody
        pool_.run((rows_ + GRAIN - 1) / GRAIN, [&](int begin, int end, int) {
            for (int t = begin * GRAIN; t < std::min(end * GRAIN, rows_); t++) body(t);
        });
    }

    void norm(const void* weight) {
        each_row([&](int t) {
            Operand<W>* to = normed_.data() + long(t) * shape_.hidden;
            normalize(residual_row(t), static_cast<const W*>(weight), shape_.hidden, shape_.norm_eps,
                      [&](int i, float x) { assign(to[Format<W>::place(i)], x); });
        });
    }

    void project_qkv(const OaiLayer& w) {
        linear<W>(pool_, static_cast<const W*>(w.qkv), qkv_width(), shape_.hidden, normed_.data(), rows_, sums_.data(),
                  [&, bias = static_cast<const W*>(w.qkv_bias)](int m, int n, int count, const float* y) {
                      float* to = qkv_.data() + long(m) * qkv_width() + n;
                      for (int i = 0; i < count; i++) to[i] = bias ? y[i] + to_float(bias[n + i]) : y[i];
                  });
    }

    // Head norms and rotation of one token; its key and value go to their slot, its queries become operands.
    void place_token(const OaiLayer& w, const OaiStep& step, W* keys, W* values, int t) {
        int dim = shape_.head_dim, heads = shape_.heads;
        const float* cosines = step.cosines + long(t) * (dim / 2);
        const float* sines = step.sines + long(t) * (dim / 2);
        float scale = step.query_scale ? step.query_scale[t] : 1.0f;
        float* row = qkv_.data() + long(t) * qkv_width();
        for (int h = 0; h < heads + shape_.kv_heads; h++) {
            const W* weight = static_cast<const W*>(h < heads ? w.query_norm : w.key_norm);
            float* head = row + h * dim;
            if (weight) normalize(head, weight, dim, shape_.norm_eps, [&](int i, float x) { head[i] = x; });
            rotate(head, cosines, sines, dim);
        }
        Operand<W>* queries = queries_.data() + long(t) * heads * dim;
        for (int i = 0; i < heads * dim; i++) assign(queries[Format<W>::place(i)], row[i] * scale);
        if (step.slots[t] < 0) return;
        long kv = long(shape_.kv_heads) * dim, at = step.slots[t] * kv;
        const float *key = row + long(heads) * dim, *value = key + kv;
        for (long i = 0; i < kv; i++) assign(keys[at + i], key[i]);
        for (long i = 0; i < kv; i++) assign(values[at + i], value[i]);
    }

    void attend_all(const OaiLayer& w, const OaiStep& step, const W* keys, const W* values) {
        int dim = shape_.head_dim;
        Pages pages{shape_.kv_heads,
                    dim,
                    step.block_size,
                    step.max_blocks,
                    shape_.heads / shape_.kv_heads,
                    shape_.attention_scale,
                    long(w.window),
                    step.query_start,
                    step.context_len,
                    step.block_table};
        paged_attention<W>(pool_, pages, step.rows, queries_.data(), keys, values, attention_scratch_,
                           [&](int token, int head, const float* out, float factor) {
                               Operand<W>* to = attended_.data() + (long(token) * shape_.heads + head) * dim;
                               for (int d = 0; d < dim; d++)
                                   assign(to[Format<W>::place(d)], out[Format<W>::spread_place(d)] * factor);
                           });
    }

    // Only the tokens whose hidden state is wanted go on once the last layer's keys and values are stored.
    void keep_wanted_rows(const OaiStep& step) {
        size_t hidden = shape_.hidden, width = size_t(shape_.heads) * shape_.head_dim;
        std::vector<float> residual(step.kept * hidden);
        std::vector<Operand<W>> attended(step.kept * width);
        for (int i = 0; i < step.kept; i++) {
            size_t t = step.kept_tokens[i];
            std::copy_n(residual_.begin() + t * hidden, hidden, residual.begin() + i * hidden);
            std::copy_n(attended_.begin() + t * width, width, attended.begin() + i * width);
        }
        std::swap(residual_, residual);
        std::swap(attended_, attended);
        rows_ = step.kept;
        reserve(rows_);
    }

    void add_projection(const void* w, int inputs, const Operand<W>* x) {
        linear<W>(pool_, static_cast<const W*>(w), shape_.hidden, inputs, x, rows_, sums_.data(),
                  [&](int m, int n, int count, const float* y) {
                      float* to = residual_row(m) + n;
                      for (int i = 0; i < count; i++) to[i] += y[i];
                  });
    }

    void layer(int index, const OaiStep& step) {
        const OaiLayer& w = layers_[index];
        W* keys = static_cast<W*>(step.key_cache) + index * step.layer_stride;
        W* values = static_cast<W*>(step.value_cache) + index * step.layer_stride;
        norm(w.input_norm);
        project_qkv(w);
        each_row([&](int t) { place_token(w, step, keys, values, t); });
        attend_all(w, step, keys, values);
        if (index + 1 == shape_.layers) keep_wanted_rows(step);
        add_projection(w.output, shape_.heads * shape_.head_dim, attended_.data());
        norm(w.post_norm);
        const W* gate = static_cast<const W*>(w.gate_up);
        gated_linear<W>(pool_, gate, gate + long(shape_.intermediate) * shape_.hidden, shape_.intermediate,
                        shape_.hidden, normed_.data(), rows_, sums_.data(),
                        [&](int m, int n, int count, const float* y) {
                            Operand<W>* to = gated_.data() + long(m) * shape_.intermediate;
                            for (int i = 0; i < count; i++) assign(to[Format<W>::place(n + i)], y[i]);
                        });
        add_projection(w.down, shape_.intermediate, gated_.data());
    }

    Pool& pool_;
    const OaiModel model_;
    const OaiShape shape_;
    const std::vector<OaiLayer> layers_;
    int rows_ = 0;
    std::vector<float> residual_, qkv_, sums_;
    std::vector<Operand<W>> normed_, queries_, attended_, gated_;
    std::vector<AttentionScratch<W>> attention_scratch_;
};

}  // namespace oai
