// Vectors of float and bf16, written once with the compiler's vector extensions.
//
// LANES is what one register holds: 16 floats with AVX-512, else 8 (without AVX the compiler splits them).
// A weight format says how a strip of weights is read and multiplied with activations ("operands"), which are
// stored in the layout that makes this cheapest:
//   float weights                     operands float, natural order
//   bf16 weights, AVX512-BF16         operands bf16, natural order: one instruction multiplies pairs
//   bf16 weights, anything else       operands float, each group of 2 * LANES split into its even and odd members,
//                                     because the even members of 32-bit words of bf16 pairs are `word << 16`
//                                     and the odd ones `word & 0xffff0000`
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace oai {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
#if defined(__AVX512BF16__) || defined(OAI_EMULATE_BF16_PAIRS)
#define OAI_BF16_PAIRS 1
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct bf16 {
    uint16_t bits;
};

template <class Vector, class T>
INLINE Vector load(const T* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}
template <class Vector, class T>
INLINE void store(T* to, Vector v) {
    memcpy(to, &v, sizeof v);
}
INLINE Floats splat(float x) { return x - Floats{}; }
// a * b + c. Written out, and the compiler's own contraction switched off, so that a sum comes out the same wherever
// it is compiled: some tunings fuse in one copy of a loop and not in another.
INLINE Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
INLINE Floats even_members(Words pairs) { return (Floats)(pairs << 16); }
INLINE Floats odd_members(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

INLINE float to_float(float x) { return x; }
INLINE float to_float(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
// Round to nearest even; NaN stays NaN.
INLINE bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return {0x7fc0};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
INLINE void assign(float& to, float x) { to = x; }
INLINE void assign(bf16& to, float x) { to = to_bf16(x); }
// The sum of all lanes, always in the same order: halves are added to each other until one lane is left.
INLINE float sum(Floats v) {
    typedef float Four __attribute__((vector_size(16)));
    Four quarters[LANES / 4];
    memcpy(quarters, &v, sizeof v);
#pragma GCC unroll 2
    for (int width = LANES / 8; width >= 1; width /= 2)
#pragma GCC unroll 2
        for (int i = 0; i < width; i++) quarters[i] += quarters[i + width];
    Four s = quarters[0];
    return (s[0] + s[2]) + (s[1] + s[3]);
}
#if defined(__AVX512F__)
// The sums of four vectors, each added up in the order of `sum`: folding four at a time takes a third of the work.
INLINE __m128 four_sums(Floats a, Floats b, Floats c, Floats d) {
    auto fold = [](__m512 x, __m512 y, auto low, auto high) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, low), _mm512_shuffle_f32x4(x, y, high));
    };
    std::integral_constant<int, 0x44> first_halves;
    std::integral_constant<int, 0xee> second_halves;
    std::integral_constant<int, 0x88> even_quarters;
    std::integral_constant<int, 0xdd> odd_quarters;
    __m512 ab = fold((__m512)a, (__m512)b, first_halves, second_halves);
    __m512 cd = fold((__m512)c, (__m512)d, first_halves, second_halves);
    __m512 all = fold(ab, cd, even_quarters, odd_quarters);
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4e));
    all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xb1));
    const __m512i firsts = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all));
}
#endif
INLINE float largest(Floats v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
}

// e^x as 2^n times a degree-6 polynomial on [-ln2/2, ln2/2] (Cephes expf): 2 ulp; 0 below -87, capped above 88.
INLINE Floats exp(Floats argument) {
    Floats x = argument < -87.0f ? splat(-87.0f) : argument;
    x = x > 88.0f ? splat(88.0f) : x;
    const Floats shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    Floats n = fused(x, splat(1.44269504088896341f), shifter) - shifter;
    Floats r = fused(n, splat(-0.693359375f), x);
    r = fused(n, splat(2.12194440e-4f), r);
    Floats p = splat(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = fused(p, r, splat(c));
    p = fused(p, r * r, r) + 1.0f;
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    p = p * (Floats)power;
    return argument < -87.0f ? Floats{} : p;
}


// Keeps a value in a register: left alone, compilers fold its load into every use and become bound by loads.
INLINE void pin(Floats& v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__AVX2__)
    asm("" : "+x"(v));
#else
    (void)v;
#endif
}

template <class W>
struct Format;

template <>
struct Format<float> {
    using Operand = float;
    static constexpr int WIDTH = LANES;  // weights a strip
    static constexpr int STEPS = 1;      // multiplications of a strip: each step of weights with that step of inputs
    static INLINE Floats weights(const float* w, int) { return load<Floats>(w); }
    static INLINE Floats inputs(const float* x, int) { return load<Floats>(x); }
    static INLINE Floats dot(Floats w, Floats x, Floats acc) { return fused(w, x, acc); }
    static INLINE int place(int i) { return i; }  // where element i lies in a row of operands
    static constexpr int PARTS = 1;               // vectors of float a strip spreads to ...
    static INLINE Floats spread(const float* w, int) { return load<Floats>(w); }
    static INLINE int spread_place(int i) { return i; }  // ... and where element i lies after it
};

template <>
struct Format<bf16> {
    static constexpr int WIDTH = 2 * LANES;
    static constexpr int PARTS = 2;
    static INLINE Floats spread(const bf16* w, int part) {
        return part ? odd_members(load<Words>(w)) : even_members(load<Words>(w));
    }
    static INLINE int spread_place(int i) { return (i & ~(WIDTH - 1)) + (i & 1) * LANES + (i & (WIDTH - 1)) / 2; }
#if defined(OAI_BF16_PAIRS)
    using Operand = bf16;
    static constexpr int STEPS = 1;
    static INLINE Floats weights(const bf16* w, int) { return load<Floats>(w); }
    static INLINE Floats inputs(const bf16* x, int) { return load<Floats>(x); }
    static INLINE Floats dot(Floats w, Floats x, Floats acc) {
#if defined(__AVX512BF16__) && !defined(OAI_EMULATE_BF16_PAIRS)
        return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
        acc = fused(odd_members((Words)w), odd_members((Words)x), acc);
        return fused(even_members((Words)w), even_members((Words)x), acc);
#endif
    }
    static INLINE int place(int i) { return i; }
#else
    using Operand = float;
    static constexpr int STEPS = 2;
    static INLINE Floats weights(const bf16* w, int step) { return spread(w, step); }
    static INLINE Floats inputs(const float* x, int step) { return load<Floats>(x + step * LANES); }
    static INLINE Floats dot(Floats w, Floats x, Floats acc) { return fused(w, x, acc); }
    static INLINE int place(int i) { return spread_place(i); }
#endif
};

template <class W>
using Operand = typename Format<W>::Operand;

}  // namespace oai
