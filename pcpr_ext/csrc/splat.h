// SPDX-License-Identifier: Apache-2.0
// What one soft dot covers of a pixel, and the way back: for host and device.
#ifndef NPCR_SPLAT_H
#define NPCR_SPLAT_H

#include <math.h>

#ifdef __CUDACC__
#define NPCR_BOTH __host__ __device__ __forceinline__
#else
#define NPCR_BOTH inline
#endif

namespace npcr {

constexpr float kOpaque = 0.99f;   // npcr.networks.splats.OPAQUE
constexpr float kCovered = 1e-3f;  // from which on a pixel has a depth

struct Cover {
    float dx, dy;  // from the pixel's centre to the dot
    float fall;    // exp(-sharpness d²)
    float share;   // of the pixel, at most kOpaque
};

NPCR_BOTH Cover cover(const float* dot, float x, float y, float opacity, float sharpness) {
    Cover result;
    result.dx = dot[0] - x;
    result.dy = dot[1] - y;
    result.fall = expf(-(result.dx * result.dx + result.dy * result.dy) * sharpness);
    const float share = opacity * result.fall;
    result.share = share < kOpaque ? share : kOpaque;
    return result;
}

// `into`: the gradients of opacity, sharpness, and the dot's x and y, from that of the share.
NPCR_BOTH void cover_grad(const Cover& at, float opacity, float sharpness, float grad_share, float* into) {
    if (opacity * at.fall > kOpaque) grad_share = 0;  // clamped
    const float grad_fall = grad_share * opacity * at.fall;  // of the exponent
    into[0] = grad_share * at.fall;
    into[1] = -grad_fall * (at.dx * at.dx + at.dy * at.dy);
    into[2] = -grad_fall * sharpness * 2 * at.dx;
    into[3] = -grad_fall * sharpness * 2 * at.dy;
}

}  // namespace npcr

#endif
