// One token of each row of logits: temperature, top_k, top_p, min_p and Gumbel noise, in a few passes over the row.
//
// The same definition as engine/sampling: filters are thresholds on logit / temperature, tokens of equal logits stand
// or fall together, noise is a function of (key0, key1, token id). The likeliest tokens, found through the largest
// logit of each block, mostly decide a threshold; else a histogram of the RANGE below the largest logit does: what
// lies lower has no mass to speak of, and no noise lifts it to the top.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "simd.h"

namespace oai {

struct SampleRow {
    float temperature;  // 0: greedy
    float top_p;        // 1: off
    float min_p;        // 0: off
    int32_t top_k;      // 0: off
    uint32_t key0, key1;
};

constexpr float NEVER = -std::numeric_limits<float>::infinity();
constexpr float NOISE_MAX = 16.64f, NOISE_SPAN = 19.5f;
constexpr int BLOCK_VECTORS = 8;  // of logits, whose largest is noted
constexpr int CANDIDATES = 1024;
constexpr int BINS = 4096;
constexpr float RANGE = 32.0f, BINS_PER_NAT = BINS / RANGE;

INLINE bool any(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t all = 0;
    for (int i = 0; i < LANES; i++) all |= mask[i];
    return all != 0;
#endif
}

// Natural logarithm of positive normal numbers (Cephes logf): 1 ulp, also next to 1.
INLINE Floats log(Floats x) {
    Ints exponent = ((Ints)x - 0x3f3504f3) >> 23;
    Floats f = (Floats)((Ints)x - (exponent << 23)) - 1.0f, e = __builtin_convertvector(exponent, Floats);
    Floats p = splat(7.0376836292e-2f);
    for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                    2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
        p = fused(p, f, splat(c));
    Floats square = f * f;
    Floats y = fused(e, splat(-2.12194440e-4f), p * f * square);
    y = fused(square, splat(-0.5f), y);
    return fused(e, splat(0.693359375f), f + y);
}

// engine/sampling/noise.py defines it.
INLINE Floats gumbel(Words token, uint32_t key0, uint32_t key1) {
    Words x = (token ^ key0) * 0x7feb352du;
    x ^= x >> 15;
    x = (x + key1) * 0x846ca68bu;
    x ^= x >> 16;
    x *= 0x9e3779b1u;
    x ^= x >> 15;
    Floats uniform = __builtin_convertvector((Ints)((x >> 9) * 2 + 1), Floats) * 0x1p-24f;
    return -log(-log(uniform));
}

class RowSampler {
   public:
    RowSampler(const float* logits, int vocab, const SampleRow& row) : logits_(logits), vocab_(vocab), row_(row) {}

    // The token and its score: NaN where a logit is NaN, infinite where the largest logit is.
    void run(int32_t* token, float* score) {
        const bool in_top_k = row_.top_k > 0 && row_.top_k < vocab_;
        const bool ranked = row_.temperature > 0.0f && (in_top_k || row_.top_p < 1.0f);
        if (ranked) block_largest_.reserve(vocab_ / (BLOCK_VECTORS * LANES) + 1);
        const float largest_logit = find_largest(ranked);
        const int first = first_of(largest_logit);
        if (!(largest_logit > NEVER && largest_logit < -NEVER) || row_.temperature <= 0.0f) {
            *token = first;
            *score = largest_logit;
            return;
        }
        top_ = largest_logit / row_.temperature;
        float threshold = NEVER;
        if (ranked && !find_among_candidates(in_top_k, &threshold)) threshold = find_by_histogram(in_top_k);
        if (row_.min_p > 0.0f) threshold = std::max(threshold, top_ + std::log(row_.min_p));
        draw(std::max(threshold, top_ - NOISE_SPAN), first, token, score);
    }

   private:
    // Calls body(first token, logits) with LANES logits at a time, the last ones filled up with -infinity.
    template <class Body>
    INLINE void each(const Body& body) const {
        int token = 0;
        for (; token + LANES <= vocab_; token += LANES) body(token, load<Floats>(logits_ + token));
        if (token < vocab_) {
            float rest[LANES];
            std::fill(rest, rest + LANES, NEVER);
            std::copy(logits_ + token, logits_ + vocab_, rest);
            body(token, load<Floats>(rest));
        }
    }
    INLINE Floats scaled(Floats logits) const { return logits / row_.temperature; }

    float find_largest(bool note_blocks) {
        Floats best = splat(NEVER), block = best;
        Ints broken = {};
        int vectors = 0;
        each([&](int, Floats v) {
            block = v > block ? v : block;
            broken |= v != v;
            if (++vectors % BLOCK_VECTORS) return;
            best = block > best ? block : best;
            if (note_blocks) block_largest_.push_back(largest(block));
            block = splat(NEVER);
        });
        best = block > best ? block : best;
        if (note_blocks) block_largest_.push_back(largest(block));
        return any(broken) ? std::numeric_limits<float>::quiet_NaN() : largest(best);
    }

    int first_of(float value) const {
        for (int token = 0; token + LANES <= vocab_; token += LANES)
            if (any(load<Floats>(logits_ + token) == value))
                return int(std::find(logits_ + token, logits_ + vocab_, value) - logits_);
        for (int token = vocab_ / LANES * LANES; token < vocab_; token++)
            if (logits_[token] == value) return token;
        return 0;
    }

    // The threshold, where the likeliest tokens are enough to know it. As many blocks as tokens are wanted have a
    // logit of at least `bound`, so at least as many tokens do.
    bool find_among_candidates(bool in_top_k, float* threshold) {
        const size_t wanted = in_top_k ? row_.top_k : CANDIDATES;
        if (wanted > block_largest_.size()) return false;
        auto nth = block_largest_.begin() + (wanted - 1);
        std::nth_element(block_largest_.begin(), nth, block_largest_.end(), std::greater<float>());
        const float bound = *nth;
        std::vector<float> found;
        double total = 0.0;
        each([&](int, Floats v) {
            if (!in_top_k) total += sum(exp(scaled(v) - top_));
            if (!any(v >= bound)) return;
            for (int i = 0; i < LANES; i++)
                if (v[i] >= bound && v[i] > NEVER) found.push_back(v[i] / row_.temperature);
        });
        std::sort(found.begin(), found.end(), std::greater<float>());
        if (in_top_k) {
            if (found.size() >= wanted) *threshold = found[wanted - 1];  // else the others are forbidden
            while (found.back() < *threshold) found.pop_back();
            for (float value : found) total += probability(value);
        }
        if (row_.top_p >= 1.0f) return true;
        double before = 0.0;
        const double target = double(row_.top_p) * total;
        for (float value : found) {
            if (before >= target) return true;
            *threshold = value;
            before += probability(value);
        }
        return in_top_k || before >= target;
    }

    // Calls body(bin, probability relative to the largest, value) for all tokens within RANGE; returns the mass of all.
    template <class Body>
    double each_likely(const Body& body) const {
        double total = 0.0;
        each([&](int, Floats v) {
            Floats s = scaled(v), p = exp(s - top_), place = (top_ - s) * BINS_PER_NAT;
            Ints inside = place < float(BINS);
            total += sum(p);
            if (!any(inside)) return;
            for (int i = 0; i < LANES; i++)
                if (inside[i]) body(int(place[i]), p[i], s[i]);
        });
        return total;
    }

    // Values of one bin, descending.
    std::vector<float> members(int wanted) const {
        std::vector<float> found;
        each_likely([&](int bin, float, float value) {
            if (bin == wanted) found.push_back(value);
        });
        std::sort(found.begin(), found.end(), std::greater<float>());
        return found;
    }

    double probability(float value) const { return std::exp(double(value) - double(top_)); }

    float find_by_histogram(bool in_top_k) const {
        std::vector<int> counts(BINS);
        std::vector<double> masses(BINS);
        double total = each_likely([&](int bin, float p, float) {
            counts[bin]++;
            masses[bin] += p;
        });
        float threshold = NEVER;
        int bins = BINS;  // bins that top_k leaves, the last one in part
        if (in_top_k) {
            int before = 0, bin = 0;
            while (bin < BINS && before + counts[bin] < row_.top_k) before += counts[bin++];
            if (bin < BINS) {
                std::vector<float> border = members(bin);
                threshold = border[row_.top_k - before - 1];
                bins = bin + 1;
                masses[bin] = 0.0;
                for (float value : border)
                    if (value >= threshold) masses[bin] += probability(value);
                total = 0.0;
                for (int i = 0; i < bins; i++) total += masses[i];
            }
        }
        if (row_.top_p >= 1.0f) return threshold;
        double before = 0.0, target = double(row_.top_p) * total;
        int bin = 0;
        while (bin < bins && before + masses[bin] < target) before += masses[bin++];
        if (bin == bins) return threshold;
        float last = top_;
        for (float value : members(bin)) {
            if (before >= target) break;
            last = value;
            before += probability(value);
        }
        return std::max(threshold, last);
    }

    // Starts with the likeliest token, so that most blocks are seen to be without a chance before any noise is made.
    void draw(float threshold, int likeliest, int32_t* token, float* score) const {
        Words lanes;
        for (int i = 0; i < LANES; i++) lanes[i] = i;
        float best = top_ + gumbel(Words{} + uint32_t(likeliest), row_.key0, row_.key1)[0];
        int best_token = likeliest;
        each([&](int first, Floats v) {
            Floats s = scaled(v);
            if (!any((s >= threshold) & (s + NOISE_MAX > best))) return;
            Floats noisy = s + gumbel(lanes + uint32_t(first), row_.key0, row_.key1);
            if (!any((s >= threshold) & (noisy >= best))) return;
            for (int i = 0; i < LANES; i++)
                if (s[i] >= threshold && (noisy[i] > best || (noisy[i] == best && first + i < best_token))) {
                    best = noisy[i];
                    best_token = first + i;
                }
        });
        *token = best_token;
        *score = best;
    }

    const float* logits_;
    int vocab_;
    const SampleRow& row_;
    float top_ = 0.0f;
    std::vector<float> block_largest_;
};

}  // namespace oai
