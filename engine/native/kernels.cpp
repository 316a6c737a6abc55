// The C face, called through ctypes. Nothing here checks sizes: `library.py` does before it calls.
#include <exception>
#include <memory>
#include <new>

#include "forward.h"
#include "sampling.h"

using namespace oai;

namespace {

struct AnyForward {
    virtual ~AnyForward() = default;
    virtual void run(const OaiStep& step) = 0;
    virtual void logits(const float* hidden, int rows, float* to) = 0;
};

template <class W>
struct TypedForward : AnyForward {
    Forward<W> forward;
    TypedForward(Pool& pool, const OaiModel& model) : forward(pool, model) {}
    void run(const OaiStep& step) override { forward.run(step); }
    void logits(const float* hidden, int rows, float* to) override { forward.logits(hidden, rows, to); }
};

struct Engine {
    Pool pool;
    std::unique_ptr<AnyForward> forward;
    explicit Engine(int threads) : pool(threads) {}
};

// Runs body(engine) while no other call does. Returns 0, or 1 when out of memory: nothing may be thrown into C.
template <class Body>
int alone(void* handle, const Body& body) {
    Engine& engine = *static_cast<Engine*>(handle);
    std::lock_guard<std::mutex> lock(engine.pool.one_caller);
    try {
        body(engine);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

template <class W>
std::vector<Operand<W>> operands(const W* x, int rows, int size) {
    std::vector<Operand<W>> out(size_t(rows) * size);
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < size; i++) assign(out[size_t(m) * size + Format<W>::place(i)], to_float(x[long(m) * size + i]));
    return out;
}

template <class W>
void run_linear(Pool& pool, const W* x, const W* w, const W* bias, W* y, int rows, int outputs, int inputs) {
    std::vector<Operand<W>> from = operands(x, rows, inputs);
    std::vector<float> sums(size_t(rows) * MAX_PIECE * pool.size());
    linear<W>(pool, w, outputs, inputs, from.data(), rows, sums.data(), [&](int m, int n, int count, const float* s) {
        for (int i = 0; i < count; i++)
            assign(y[long(m) * outputs + n + i], bias ? s[i] + to_float(bias[n + i]) : s[i]);
    });
}

template <class W>
void run_attention(Pool& pool, const Pages& pages, int rows, const W* queries, const W* keys, const W* values, W* out) {
    int heads = pages.kv_heads * pages.group, dim = pages.head_dim;
    std::vector<Operand<W>> from = operands(queries, pages.query_start[rows], heads * dim);
    std::vector<AttentionScratch<W>> scratch;
    paged_attention<W>(pool, pages, rows, from.data(), keys, values, scratch,
                       [&](int token, int head, const float* sums, float factor) {
                           W* to = out + (long(token) * heads + head) * dim;
                           for (int d = 0; d < dim; d++) assign(to[d], sums[Format<W>::spread_place(d)] * factor);
                       });
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Sizes of a row of inputs must be multiples of this many elements.
int oai_strip(int element_bytes) { return element_bytes == 2 ? Format<bf16>::WIDTH : Format<float>::WIDTH; }

const char* oai_instructions() {
#if defined(OAI_EMULATE_BF16_PAIRS)
    return "emulated bf16 pairs";
#elif defined(OAI_BF16_PAIRS)
    return "AVX512-BF16";
#elif defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
    return "AVX2";
#else
    return "portable";
#endif
}

// Null where the system refuses the threads or the memory.
void* oai_create(int threads) {
    try {
        return new Engine(threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}
void oai_destroy(void* engine) { delete static_cast<Engine*>(engine); }

// From here on every function but oai_read returns 0, or 1 when out of memory.

int oai_linear(void* handle, const void* x, const void* w, const void* bias, void* y, int rows, int outputs, int inputs,
               int element_bytes) {
    return alone(handle, [&](Engine& engine) {
        if (element_bytes == 2)
            run_linear(engine.pool, (const bf16*)x, (const bf16*)w, (const bf16*)bias, (bf16*)y, rows, outputs, inputs);
        else
            run_linear(engine.pool, (const float*)x, (const float*)w, (const float*)bias, (float*)y, rows, outputs,
                       inputs);
    });
}

int oai_paged_attention(void* handle, const void* queries, const void* keys, const void* values, void* out,
                        const int32_t* query_start, const int32_t* context_len, const int32_t* block_table, int rows,
                        int max_blocks, int block_size, int heads, int kv_heads, int head_dim, float scale,
                        int64_t window, int element_bytes) {
    Pages pages{kv_heads,     head_dim,    block_size,  max_blocks, heads / kv_heads, scale,
                long(window), query_start, context_len, block_table};
    return alone(handle, [&](Engine& engine) {
        if (element_bytes == 2)
            run_attention(engine.pool, pages, rows, (const bf16*)queries, (const bf16*)keys, (const bf16*)values,
                          (bf16*)out);
        else
            run_attention(engine.pool, pages, rows, (const float*)queries, (const float*)keys, (const float*)values,
                          (float*)out);
    });
}

// Copies the description; the weights it points to must outlive the engine.
int oai_set_model(void* handle, const OaiModel* model) {
    return alone(handle, [&](Engine& engine) {
        if (model->shape.element_bytes == 2)
            engine.forward = std::make_unique<TypedForward<bf16>>(engine.pool, *model);
        else
            engine.forward = std::make_unique<TypedForward<float>>(engine.pool, *model);
    });
}

int oai_forward(void* handle, const OaiStep* step) {
    return alone(handle, [&](Engine& engine) { engine.forward->run(*step); });
}

// hidden [rows, hidden] -> logits [rows, vocab].
int oai_logits(void* handle, const float* hidden, int rows, float* logits) {
    return alone(handle, [&](Engine& engine) { engine.forward->logits(hidden, rows, logits); });
}

// One token of each row of logits (rows `stride` apart, the first `vocab` columns count).
int oai_sample(void* handle, const float* logits, int rows, int64_t stride, int vocab, const SampleRow* parameters,
               int32_t* tokens, float* scores) {
    std::atomic<bool> failed{false};  // what a worker's thread throws would end the process
    int status = alone(handle, [&](Engine& engine) {
        engine.pool.run(rows, [&](int begin, int end, int) {
            for (int row = begin; row < end; row++) try {
                    RowSampler(logits + row * stride, vocab, parameters[row]).run(tokens + row, scores + row);
                } catch (const std::bad_alloc&) {
                    failed = true;
                }
        });
    });
    return status || failed;
}

// Bytes read by all threads together, for measuring what memory can deliver.
uint64_t oai_read(void* handle, const void* memory, int64_t bytes) {
    Pool& pool = static_cast<Engine*>(handle)->pool;
    std::lock_guard<std::mutex> lock(pool.one_caller);
    std::atomic<uint64_t> total{0};
    constexpr long PIECE = 1 << 18, STEP = 4 * sizeof(Words);
    pool.run(int(bytes / PIECE), [&](int begin, int end, int) {
        const char* from = static_cast<const char*>(memory);
        Words sums[4] = {};
        for (long i = begin * PIECE; i < end * PIECE; i += STEP)
            for (int j = 0; j < 4; j++) {
                __builtin_prefetch(from + i + 4096 + j * sizeof(Words));
                sums[j] ^= load<Words>(from + i + j * sizeof(Words));
            }
        sums[0] ^= sums[1] ^ sums[2] ^ sums[3];
        total += sums[0][0];
    });
    return total;
}
}
#pragma GCC visibility pop
