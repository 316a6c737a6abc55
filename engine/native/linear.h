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

constexpr int MAX_INPUT_BLOCK = 1280;
constexpr int FEW_ROWS = 16;   // up to here all rows use a group of weight rows before the next group is read
constexpr int GROUP = 8;       // weight rows of that group; also the smallest piece of work a thread takes
constexpr int MAX_PIECE = 64;  // weight rows worked on between two epilogues

template <class W, int M, int N>
INLINE void tile(const W* w, long w_stride, const Operand<W>* x, long x_stride, int inputs, float* y, long y_stride,
                 bool add) {
    using F = Format<W>;
    Floats acc[M][N] = {};
    const long ahead = N * w_stride;
    for (int i = 0; i < inputs; i += F::WIDTH) {
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            __builtin_prefetch(w + n * w_stride + i + ahead);
            typename F::Strip strip = F::read(w + n * w_stride + i);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) acc[m][n] = F::dot(acc[m][n], strip, x + m * x_stride + i);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            float total = sum(acc[m][n]);
            y[m * y_stride + n] = add ? y[m * y_stride + n] + total : total;
        }
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
    constexpr int N4 = LANES == 16 ? 4 : 2;  // 32 registers or 16
    for (int done = 0; done < rows;) {
        int left = rows - done, m = left <= 4 ? left : left == 5 || left == 6 || left == 9 ? 3 : 4;
        const Operand<W>* from = x + done * x_stride;
        float* to = y + done * y_stride;
        if (m == 1) tiles<W, 1, 8>(w, w_stride, outputs, from, x_stride, inputs, to, y_stride, add);
        if (m == 2) tiles<W, 2, 4>(w, w_stride, outputs, from, x_stride, inputs, to, y_stride, add);
        if (m == 3) tiles<W, 3, 4>(w, w_stride, outputs, from, x_stride, inputs, to, y_stride, add);
        if (m == 4) tiles<W, 4, N4>(w, w_stride, outputs, from, x_stride, inputs, to, y_stride, add);
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
    int group = rows > 4 && rows <= FEW_ROWS ? GROUP : outputs;
    for (int i = 0; i < inputs; i += block)
        for (int n = 0; n < outputs; n += group)
            multiply(w + long(n) * inputs + i, inputs, std::min(group, outputs - n), x + i, x_stride, rows,
                     std::min(block, inputs - i), y + n, y_stride, i > 0);
}

// All threads together: epilogue(row, first output, count, sums) gets every stretch of sums once.
template <class W, class Epilogue>
void linear(Pool& pool, const W* w, int outputs, int inputs, const Operand<W>* x, int rows, float* scratch,
            const Epilogue& epilogue) {
    int grains = (outputs + GROUP - 1) / GROUP;
    pool.run(grains, [&](int begin, int end, int thread) {
        float* sums = scratch + long(thread) * rows * MAX_PIECE;
        int last = std::min(end * GROUP, outputs);
        for (int n = begin * GROUP; n < last; n += MAX_PIECE) {
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
    int grains = (outputs + GROUP - 1) / GROUP;
    pool.run(grains, [&](int begin, int end, int thread) {
        float* sums = scratch + long(thread) * rows * MAX_PIECE;
        int last = std::min(end * GROUP, outputs);
        for (int n = begin * GROUP; n < last; n += PIECE) {
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
