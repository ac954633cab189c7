// SPDX-License-Identifier: Apache-2.0
// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016): a 3x3 convolution of 4x4 pixels takes 36
// multiplications for each pair of channels instead of 144. With points 0, ±a, ±b, infinity,
//   Y = A' [(G g G') . (B' d B)] A,   d 6x6 pixels, g 3x3 weights, Y 4x4 pixels,
// and its transposes give both gradients. a = sqrt(1/2), b = sqrt(2) make a²b² = 1 and keep the error near
// 1e-6 of the result, a third of that of the usual points 1 and 2.
//
// Everything here is forced inline, so that it is compiled for the instruction set of whoever calls it.
#ifndef NPCR_WINOGRAD_H
#define NPCR_WINOGRAD_H

#include <stdint.h>
#include <string.h>

#include "processor.h"

#define NPCR_INLINE inline __attribute__((always_inline))

namespace npcr {

constexpr int kTile = 4;        // pixels of a tile's side
constexpr int kPatch = 6;       // pixels that it depends on
constexpr int kProducts = 36;   // multiplications per tile and pair of channels
constexpr int kPanel = 16;      // columns of the right matrix that are stored together
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
constexpr float kA2 = 0.5f, kB2 = 2.0f, kA2B2 = 2.5f;  // the last is a² + b²
constexpr float kA3 = kA * kA2, kB3 = kB * kB2;

// Lanes of a vector register that the compiler splits or fills as the processor has them.
template <int lanes>
struct Lanes {
    typedef float Float __attribute__((vector_size(4 * lanes)));
    typedef uint32_t Bits __attribute__((vector_size(4 * lanes)));
    typedef int32_t Int __attribute__((vector_size(4 * lanes)));
    typedef uint16_t Short __attribute__((vector_size(2 * lanes)));
};

template <class Vector>
NPCR_INLINE void load(const float* from, Vector& to) { memcpy(&to, from, sizeof to); }

template <class Vector, class Element>
NPCR_INLINE void store(const Vector& from, Element* to) { memcpy(to, &from, sizeof from); }

// B' d for one column: six values to six.
template <class V>
NPCR_INLINE void transform_patch(const V* d, V* out, int stride) {
    const V even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
    const V even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
    out[0] = (d[0] + d[4]) - kA2B2 * d[2];
    out[stride] = even_a + odd_a;
    out[2 * stride] = even_a - odd_a;
    out[3 * stride] = even_b + odd_b;
    out[4 * stride] = even_b - odd_b;
    out[5 * stride] = (d[1] + d[5]) - kA2B2 * d[3];
}

// A' m for one column: six values to four.
template <class V>
NPCR_INLINE void transform_products(const V* m, V* out, int stride) {
    const V sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const V sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    out[0] = m[0] + sum_a + sum_b;
    out[stride] = kA * difference_a + kB * difference_b;
    out[2 * stride] = kA2 * sum_a + kB2 * sum_b;
    out[3 * stride] = (kA3 * difference_a + kB3 * difference_b) + m[5];
}

// A y for one column: four values to six; the transpose of transform_products.
template <class V>
NPCR_INLINE void spread_tile(const V* y, V* out, int stride) {
    const V even_a = y[0] + kA2 * y[2], odd_a = kA * y[1] + kA3 * y[3];
    const V even_b = y[0] + kB2 * y[2], odd_b = kB * y[1] + kB3 * y[3];
    out[0] = y[0];
    out[stride] = even_a + odd_a;
    out[2 * stride] = even_a - odd_a;
    out[3 * stride] = even_b + odd_b;
    out[4 * stride] = even_b - odd_b;
    out[5 * stride] = y[3];
}

// Rows of G: the weights' polynomial at each point, over the product of the point's distances to the others.
constexpr float kG[kPatch][3] = {{1.0f, 0.0f, 0.0f},
                                 {-2.0f / 3, -2.0f / 3 * kA, -2.0f / 3 * kA2},
                                 {-2.0f / 3, 2.0f / 3 * kA, -2.0f / 3 * kA2},
                                 {1.0f / 6, 1.0f / 6 * kB, 1.0f / 6 * kB2},
                                 {1.0f / 6, -1.0f / 6 * kB, 1.0f / 6 * kB2},
                                 {0.0f, 0.0f, 1.0f}};

// C[r] (+)= sum over k of left[r][k] right[k], r < rows, for a few panels of 16 columns. Rows of `left` lie row_stride
// apart and their elements step apart; rows of `right` lie right_stride apart, and its panels panel_stride.
template <int lanes, int rows, int panels, bool add>
NPCR_INLINE void multiply_rows(const float* left, int64_t row_stride, int64_t step, const float* right,
                               int64_t right_stride, int64_t panel_stride, int64_t depth, float* out,
                               int64_t out_stride) {
    typedef typename Lanes<lanes>::Float V;
    constexpr int kOfPanel = kPanel / lanes, kVectors = panels * kOfPanel;
    V sum[rows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = V{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        V b[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            load(right + k * right_stride + v / kOfPanel * panel_stride + v % kOfPanel * lanes, b[v]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const float a = left[r * row_stride + k * step];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sum[r][v] += a * b[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            float* at = out + r * out_stride + v * lanes;
            if (add) {
                V before;
                load(at, before);
                sum[r][v] += before;
            }
            store(sum[r][v], at);
        }
    }
}

// As multiply_rows, for any number of rows, `most` at a time as long as there are so many.
template <int lanes, int most, int panels, bool add>
NPCR_INLINE void multiply_panels(const float* left, int64_t row_stride, int64_t step, const float* right,
                                 int64_t right_stride, int64_t panel_stride, int64_t depth, float* out,
                                 int64_t out_stride, int64_t rows) {
    int64_t r = 0;
    for (; r + most <= rows; r += most) {
        multiply_rows<lanes, most, panels, add>(left + r * row_stride, row_stride, step, right, right_stride,
                                                panel_stride, depth, out + r * out_stride, out_stride);
    }
    if constexpr (most > 1) {
        if (r < rows) {
            multiply_panels<lanes, most / 2, panels, add>(left + r * row_stride, row_stride, step, right, right_stride,
                                                          panel_stride, depth, out + r * out_stride, out_stride,
                                                          rows - r);
        }
    }
}

// All columns, which are whole panels, at_once of them at a time as long as there are so many.
template <int lanes, int most, int at_once, bool add>
NPCR_INLINE void multiply(const float* left, int64_t row_stride, int64_t step, const float* right,
                          int64_t right_stride, int64_t panel_stride, int64_t depth, float* out, int64_t out_stride,
                          int64_t rows, int64_t panels) {
    int64_t panel = 0;
    for (; panel + at_once <= panels; panel += at_once) {
        multiply_panels<lanes, most, at_once, add>(left, row_stride, step, right + panel * panel_stride, right_stride,
                                                   panel_stride, depth, out + panel * kPanel, out_stride, rows);
    }
    if constexpr (at_once > 1) {
        if (panel < panels) {
            multiply_panels<lanes, most, 1, add>(left, row_stride, step, right + panel * panel_stride, right_stride,
                                                 panel_stride, depth, out + panel * kPanel, out_stride, rows);
        }
    }
}

}  // namespace npcr

// Calls NAME<lanes, rows and panels of the innermost product>(arguments) for this processor: a function template that is
// forced inline into one function for each instruction set. Sums are fused here: -ffp-contract=off is for the
// projection.
#if defined(__x86_64__)
#define NPCR_FOR_PROCESSOR(NAME, PARAMETERS, ARGUMENTS)                                                     \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))) void NAME##_avx512 PARAMETERS {           \
        NAME<16, 12, 2> ARGUMENTS;                                                                             \
    }                                                                                                       \
    __attribute__((target("avx2,fma"))) void NAME##_avx2 PARAMETERS { NAME<8, 6, 1> ARGUMENTS; }               \
    void NAME##_any PARAMETERS { NAME<4, 3, 1> ARGUMENTS; }                                                    \
    void NAME##_here PARAMETERS {                                                                           \
        if (npcr_use_avx512()) return NAME##_avx512 ARGUMENTS;                                              \
        if (npcr_use_avx2()) return NAME##_avx2 ARGUMENTS;                                                  \
        NAME##_any ARGUMENTS;                                                                               \
    }
#else
#define NPCR_FOR_PROCESSOR(NAME, PARAMETERS, ARGUMENTS) \
    void NAME##_here PARAMETERS { NAME<4, 6, 1> ARGUMENTS; }
#endif

#endif
