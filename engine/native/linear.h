// y = x W^T for a few or many rows of x, with W row-major as in the checkpoint ([outputs, inputs], never repacked).
//
// A tile keeps M x N vector accumulators in registers, walks along the inputs and sums the lanes at the end. Inputs
// are cut into blocks so that the operands of a tile stay in the first-level cache. With few rows the work is to
// stream W once: the weight rows of the next tile are prefetched while this one is computed. The order in which a
// product is summed does not depend on the number of rows: a row's result is the same alone and in any batch.
#pragma once

#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace oai {

constexpr int MAX_INPUT_BLOCK = 896;  // six rows of float operands and the weights under way: 29 KiB of a 32 KiB cache
constexpr int MAX_TILE_ROWS = 6;
constexpr int FEW_ROWS = 16;   // up to here all rows use a group of weight rows before the next group is read
constexpr int GROUP = 12;      // weight rows of that group
constexpr int GRAIN = 8;       // weight rows of the smallest piece of work that a thread takes
constexpr int MAX_PIECE = 96;  // weight rows worked on between two epilogues

// y[n] (+)= the sum of acc[n]'s lanes
template <int N>
INLINE void put_sums(const Floats (&acc)[N], float* y, bool add) {
#if defined(__AVX512F__)
    if constexpr (N == 4) {
        __m128 totals = four_sums(acc[0], acc[1], acc[2], acc[3]);
        _mm_storeu_ps(y, add ? _mm_add_ps(_mm_loadu_ps(y), totals) : totals);
        return;
    }
#endif
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        float total = sum(acc[n]);
        y[n] = add ? y[n] + total : total;
    }
}

template <class W, int M, int N>
INLINE void tile(const W* w, long w_stride, const Operand<W>* x, long x_stride, int inputs, float* y, long y_stride,
                 bool add) {
    using F = Format<W>;
    Floats acc[M][N] = {};
    // The next N rows: in the order of memory where they are whole (short rows give the hardware's own prefetcher too
    // little time to notice a stream), else in the order in which they will be used.
    const bool whole = inputs == w_stride;
    const long row_step = whole ? F::WIDTH : w_stride, strip_step = whole ? N * F::WIDTH : F::WIDTH;
    const W* ahead = w + N * w_stride;
    for (int i = 0; i < inputs; i += F::WIDTH, ahead += strip_step) {
#pragma GCC unroll 2
        for (int step = 0; step < F::STEPS; step++) {
            Floats strip[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) {
                if (step == 0) __builtin_prefetch(ahead + n * row_step);
                strip[n] = F::weights(w + n * w_stride + i, step);
                pin(strip[n]);
            }
#pragma GCC unroll 6
            for (int m = 0; m < M; m++) {
                Floats input = F::inputs(x + m * x_stride + i, step);
                pin(input);
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) acc[m][n] = F::dot(strip[n], input, acc[m][n]);
            }
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) put_sums<N>(acc[m], y + m * y_stride, add);
}

template <class W, int M, int N>
__attribute__((noinline)) void tiles(const W* w, long w_stride, int outputs, const Operand<W>* x, long x_stride,
                                     int inputs, float* y, long y_stride, bool add) {
    int n = 0;
    for (; n + N <= outputs; n += N)
        tile<W, M, N>(w + n * w_stride, w_stride, x, x_stride, inputs, y + n, y_stride, add);
    for (; n < outputs; n++)
        tile<W, M, 1>(w + n * w_stride, w_stride, x, x_stride, inputs, y + n, y_stride, add);
}

// y[rows, outputs] (+)= x[rows, inputs] w[outputs, inputs]^T without blocking; strides in elements.
template <class W>
void multiply(const W* w, long w_stride, int outputs, const Operand<W>* x, long x_stride, int rows, int inputs,
              float* y, long y_stride, bool add) {
    constexpr bool MANY_REGISTERS = LANES == 16;  // M * N sums, N weights and one input must fit in 32, else in 16
    constexpr int N3 = MANY_REGISTERS ? 4 : 3, N6 = MANY_REGISTERS ? 4 : 2;
    for (int done = 0, left; (left = rows - done) > 0;) {
        int tiles_left = (left + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS, m = (left + tiles_left - 1) / tiles_left;
        if (left == 8) m = 5;  // then 3: both keep the multipliers busier than two tiles of four rows
        auto run = [&](auto kernel) {
            kernel(w, w_stride, outputs, x + done * x_stride, x_stride, inputs, y + done * y_stride, y_stride, add);
        };
        if (m == 1) run(tiles<W, 1, 4>);
        if (m == 2) run(tiles<W, 2, 4>);
        if (m == 3) run(tiles<W, 3, N3>);
        if (m == 4) run(tiles<W, 4, N6>);
        if (m == 5) run(tiles<W, 5, N6>);
        if (m == 6) run(tiles<W, 6, N6>);
        done += m;
    }
}

// The same with inputs in cache-sized blocks; overwrites y.
template <class W>
void multiply_blocked(const W* w, int outputs, const Operand<W>* x, long x_stride, int rows, int inputs, float* y,
                      long y_stride) {
    constexpr int WIDTH = Format<W>::WIDTH;
    int blocks = (inputs + MAX_INPUT_BLOCK - 1) / MAX_INPUT_BLOCK;
    int block = ((inputs + blocks - 1) / blocks + WIDTH - 1) / WIDTH * WIDTH;
    int group = rows > MAX_TILE_ROWS && rows <= FEW_ROWS ? GROUP : outputs;
    for (int i = 0; i < inputs; i += block)
        for (int n = 0; n < outputs; n += group)
            multiply(w + long(n) * inputs + i, inputs, std::min(group, outputs - n), x + i, x_stride, rows,
                     std::min(block, inputs - i), y + n, y_stride, i > 0);
}

// All threads together: epilogue(row, first output, count, sums) gets every stretch of sums once.
template <class W, class Epilogue>
void linear(Pool& pool, const W* w, int outputs, int inputs, const Operand<W>* x, int rows, float* scratch,
            const Epilogue& epilogue) {
    int grains = (outputs + GRAIN - 1) / GRAIN;
    pool.run(grains, [&](int begin, int end, int thread) {
        float* sums = scratch + long(thread) * rows * MAX_PIECE;
        int last = std::min(end * GRAIN, outputs);
        for (int n = begin * GRAIN; n < last; n += MAX_PIECE) {
            int count = std::min(MAX_PIECE, last - n);
            multiply_blocked(w + long(n) * inputs, count, x, inputs, rows, inputs, sums, MAX_PIECE);
            for (int m = 0; m < rows; m++) epilogue(m, n, count, sums + long(m) * MAX_PIECE);
        }
    });
}

// silu(x Wgate^T) * (x Wup^T), handed to epilogue(row, first output, count, products).
template <class W, class Epilogue>
void gated_linear(Pool& pool, const W* gate, const W* up, int outputs, int inputs, const Operand<W>* x, int rows,
                  float* scratch, const Epilogue& epilogue) {
    constexpr int PIECE = MAX_PIECE / 2;
    int grains = (outputs + GRAIN - 1) / GRAIN;
    pool.run(grains, [&](int begin, int end, int thread) {
        float* sums = scratch + long(thread) * rows * MAX_PIECE;
        int last = std::min(end * GRAIN, outputs);
        for (int n = begin * GRAIN; n < last; n += PIECE) {
            int count = std::min(PIECE, last - n);
            multiply_blocked(gate + long(n) * inputs, count, x, inputs, rows, inputs, sums, MAX_PIECE);
            multiply_blocked(up + long(n) * inputs, count, x, inputs, rows, inputs, sums + PIECE, MAX_PIECE);
            for (int m = 0; m < rows; m++) {
                float* row = sums + long(m) * MAX_PIECE;
                for (int i = 0; i < PIECE; i += LANES) {
                    Floats g = load<Floats>(row + i);
                    store(row + i, g / (exp(-g) + 1.0f) * load<Floats>(row + PIECE + i));
                }
                epilogue(m, n, count, row);
            }
        }
    });
}

}  // namespace oai
