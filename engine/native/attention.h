// Causal attention over paged keys and values, read in place.
//
// A task is one kv head of one row: a run of its query tokens with all query heads of the group folded into rows
// [token, head of group], against a range of keys. Scores are made a stretch of keys at a time with a running maximum
// and sum (online softmax, Milakov & Gimelshein 2018). A single long decode row is split over the keys; the parts
// are merged by their maxima and sums (flash decoding).
#pragma once

#include <cmath>
#include <vector>

#include "linear.h"

namespace oai {

constexpr int KEYS = 64;        // keys between two updates of the running maximum
constexpr int QUERY_ROWS = 64;  // folded query rows of a task, at least one token's group
constexpr int SPLIT_KEYS = 256; // a decode row is not split finer than this

struct Pages {
    int kv_heads, head_dim, block_size, max_blocks, group;  // group: query heads a kv head
    float scale;
    long window;  // 0: none
    const int32_t* query_start;  // [rows + 1]
    const int32_t* context_len;  // [rows]
    const int32_t* block_table;  // [rows, max_blocks]
};

struct Task {
    int row, kv_head, first_token, tokens;  // first_token counts within the row
    int key_begin, key_end;
    int part;  // index of the partial result, -1 when the task sees all its keys
};

inline std::vector<Task> plan(const Pages& p, int rows, int threads) {
    std::vector<Task> tasks;
    int parts = 0, tokens_a_task = std::max(1, QUERY_ROWS / p.group);
    for (int row = 0; row < rows; row++) {
        int count = p.query_start[row + 1] - p.query_start[row], context = p.context_len[row];
        // Not a function of the other rows: a row's result must not depend on its company.
        int splits = 1;
        if (count == 1 && threads > p.kv_heads) splits = std::clamp(context / SPLIT_KEYS, 1, 2 * threads / p.kv_heads);
        // Long runs first: the last tokens see most keys.
        for (int first = (count - 1) / tokens_a_task * tokens_a_task; first >= 0; first -= tokens_a_task)
            for (int head = 0; head < p.kv_heads; head++) {
                int tokens = std::min(tokens_a_task, count - first), begin = 0;
                int end = context - count + first + tokens;
                if (p.window > 0) begin = std::max<long>(0, end - tokens - p.window + 1) / KEYS * KEYS;
                for (int s = 0; s < splits; s++) {
                    int from = begin + int(long(end - begin) * s / splits) / KEYS * KEYS;
                    int to = s + 1 < splits ? begin + int(long(end - begin) * (s + 1) / splits) / KEYS * KEYS : end;
                    tasks.push_back({row, head, first, tokens, from, to, splits > 1 ? parts++ : -1});
                }
            }
    }
    return tasks;
}

// out[m] += p[m, key] * v[key] for M rows of out (values spread as Format<C>::spread lays them).
template <class C, int M>
void add_values(const float* p, long p_stride, const C* v, long v_stride, int keys, int head_dim, float* out) {
    using F = Format<C>;
    for (int d = 0; d < head_dim; d += F::WIDTH) {
        Floats acc[M][F::PARTS];
        for (int m = 0; m < M; m++)
            for (int part = 0; part < F::PARTS; part++)
                acc[m][part] = load<Floats>(out + m * head_dim + d + part * LANES);
        for (int key = 0; key < keys; key++) {
            Floats value[F::PARTS];
            for (int part = 0; part < F::PARTS; part++) value[part] = F::spread(v + key * v_stride + d, part);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                Floats weight = splat(p[m * p_stride + key]);
                for (int part = 0; part < F::PARTS; part++) acc[m][part] = fused(weight, value[part], acc[m][part]);
            }
        }
        for (int m = 0; m < M; m++)
            for (int part = 0; part < F::PARTS; part++) store(out + m * head_dim + d + part * LANES, acc[m][part]);
    }
}

struct Running {
    float maximum, total;
};

// Turns a row of scores into weights relative to the row's running maximum; out is rescaled when that moves.
inline void update_softmax(float* scores, int begin, int end, float scale, Running& running, float* out,
                           int head_dim) {
    for (int i = 0; i < KEYS; i++) scores[i] = i >= begin && i < end ? scores[i] * scale : -INFINITY;
    Floats best = load<Floats>(scores);
    for (int i = LANES; i < KEYS; i += LANES) {
        Floats s = load<Floats>(scores + i);
        best = s > best ? s : best;
    }
    float maximum = std::max(running.maximum, largest(best));
    Floats total = {};
    for (int i = 0; i < KEYS; i += LANES) {
        Floats weight = exp(load<Floats>(scores + i) - maximum);
        store(scores + i, weight);
        total += weight;
    }
    if (maximum > running.maximum && running.total > 0) {
        float factor = std::exp(running.maximum - maximum);
        for (int d = 0; d < head_dim; d++) out[d] *= factor;
        running.total *= factor;
    }
    running.total += sum(total);
    running.maximum = maximum;
}

// One task. queries: operands [tokens of the step, heads, head_dim]; out [task rows, head_dim], not yet divided.
template <class C>
void attend(const Pages& p, const Task& task, const Operand<C>* queries, const C* keys, const C* values, float* out,
            Running* running, Operand<C>* folded, float* scores) {
    const int rows = task.tokens * p.group, heads = p.group * p.kv_heads, dim = p.head_dim;
    const long stride = long(p.kv_heads) * dim;
    const int first_position = p.context_len[task.row] - (p.query_start[task.row + 1] - p.query_start[task.row]) +
                               task.first_token;
    for (int t = 0; t < task.tokens; t++) {
        long token = p.query_start[task.row] + task.first_token + t;
        memcpy(folded + long(t) * p.group * dim, queries + (token * heads + task.kv_head * p.group) * dim,
               sizeof(Operand<C>) * p.group * dim);
    }
    std::fill(out, out + long(rows) * dim, 0.0f);
    std::fill(running, running + rows, Running{-INFINITY, 0.0f});
    const int32_t* table = p.block_table + long(task.row) * p.max_blocks;
    for (int first = task.key_begin; first < task.key_end; first += KEYS) {
        int count = std::min(KEYS, task.key_end - first);
        // body(keys before this piece, its keys, its place in the caches) for each stretch within one block
        auto pieces = [&](auto body) {
            for (int done = 0; done < count;) {
                int offset = (first + done) % p.block_size, size = std::min(count - done, p.block_size - offset);
                long slot = long(table[(first + done) / p.block_size]) * p.block_size + offset;
                body(done, size, slot * stride + long(task.kv_head) * dim);
                done += size;
            }
        };
        pieces([&](int done, int size, long at) {
            multiply(keys + at, stride, size, folded, dim, rows, dim, scores + done, KEYS, false);
        });
        for (int r = 0; r < rows; r++) {
            int position = first_position + r / p.group;
            int begin = p.window > 0 ? std::max<long>(0, position - p.window + 1 - first) : 0;
            int end = std::min(count, position + 1 - first);
            if (begin < end) update_softmax(scores + r * KEYS, begin, end, p.scale, running[r], out + r * dim, dim);
            else std::fill(scores + r * KEYS, scores + (r + 1) * KEYS, 0.0f);
        }
        pieces([&](int done, int size, long at) {
            int r = 0;
            for (; r + 4 <= rows; r += 4)
                add_values<C, 4>(scores + r * KEYS + done, KEYS, values + at, stride, size, dim, out + r * dim);
            for (; r < rows; r++)
                add_values<C, 1>(scores + r * KEYS + done, KEYS, values + at, stride, size, dim, out + r * dim);
        });
    }
}

// Scratch of one thread, and of the parts of split rows.
template <class C>
struct AttentionScratch {
    std::vector<Operand<C>> folded;
    std::vector<float> scores, out;
    std::vector<Running> running;
    void reserve(int rows, int dim) {
        folded.resize(size_t(rows) * dim);
        scores.resize(size_t(rows) * KEYS);
        out.resize(size_t(rows) * dim);
        running.resize(rows);
    }
};

// emit(token of the step, head, head_dim floats spread as Format<C>::spread lays them, 1 / total) once for each query.
template <class C, class Emit>
void paged_attention(Pool& pool, const Pages& p, int rows, const Operand<C>* queries, const C* keys, const C* values,
                     std::vector<AttentionScratch<C>>& scratch, const Emit& emit) {
    std::vector<Task> tasks = plan(p, rows, pool.size());
    int parts = 0;
    for (const Task& task : tasks) parts = std::max(parts, task.part + 1);
    int folded_rows = std::max(p.group, QUERY_ROWS), dim = p.head_dim;
    scratch.resize(pool.size());
    for (auto& s : scratch) s.reserve(folded_rows, dim);
    std::vector<float> part_out(size_t(parts) * p.group * dim);
    std::vector<Running> part_running(size_t(parts) * p.group);
    auto token_of = [&](const Task& task) { return p.query_start[task.row] + task.first_token; };
    pool.run(int(tasks.size()), [&](int begin, int end, int thread) {
        AttentionScratch<C>& s = scratch[thread];
        for (int i = begin; i < end; i++) {
            const Task& task = tasks[i];
            bool whole = task.part < 0;
            float* out = whole ? s.out.data() : part_out.data() + size_t(task.part) * p.group * dim;
            Running* running = whole ? s.running.data() : part_running.data() + size_t(task.part) * p.group;
            attend<C>(p, task, queries, keys, values, out, running, s.folded.data(), s.scores.data());
            for (int r = 0; whole && r < task.tokens * p.group; r++)
                emit(token_of(task) + r / p.group, task.kv_head * p.group + r % p.group, out + long(r) * dim,
                     1.0f / running[r].total);
        }
    });
    for (size_t i = 0; i < tasks.size();) {
        if (tasks[i].part < 0) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < tasks.size() && tasks[end].part >= 0 && tasks[end].row == tasks[i].row &&
               tasks[end].kv_head == tasks[i].kv_head)
            end++;
        for (int g = 0; g < p.group; g++) {
            size_t first = size_t(tasks[i].part) * p.group + g;
            float maximum = -INFINITY, total = 0;
            for (size_t s = i; s < end; s++) maximum = std::max(maximum, part_running[first + (s - i) * p.group].maximum);
            std::vector<float> merged(dim);
            for (size_t s = i; s < end; s++) {
                size_t at = first + (s - i) * p.group;
                float factor = std::exp(part_running[at].maximum - maximum);
                total += part_running[at].total * factor;
                for (int d = 0; d < dim; d++) merged[d] += part_out[at * dim + d] * factor;
            }
            emit(token_of(tasks[i]), tasks[i].kv_head * p.group + g, merged.data(), 1.0f / total);
        }
        i = end;
    }
}

}  // namespace oai
