// SPDX-License-Identifier: Apache-2.0
// Soft dots in one pixel, and their gradients: for host and device.
#ifndef NPCR_SPLAT_H
#define NPCR_SPLAT_H

#include <math.h>
#include <stdint.h>

#include "arguments.h"

#ifdef __CUDACC__
#define NPCR_BOTH __host__ __device__ __forceinline__
#else
#define NPCR_BOTH inline
#endif

namespace npcr {

constexpr float kMaxCoverage = 0.99f;  // of one dot; both as in npcr.ops.compositing
constexpr float kMinCoverage = 1e-3f;  // from which on a pixel has a depth
constexpr int kSplatHead = 3;          // of a point's numbers, before its values: opacity, sharpness, fade
constexpr int kSplatParts = 5;         // of a fragment's gradient: opacity, sharpness, x, y; and the weight of its values

struct Cover {
    float dx, dy;    // from the pixel's center to the dot
    float fall;      // exp(-sharpness d²)
    float within;    // 1 - fade d², 0 out of the dot's reach
    float share;     // of the pixel, at most kMaxCoverage
};

NPCR_BOTH Cover cover(const float* dot, const float* point, int64_t x, int64_t y) {
    Cover result;
    result.dx = dot[0] - static_cast<float>(x);
    result.dy = dot[1] - static_cast<float>(y);
    const float away = result.dx * result.dx + result.dy * result.dy;
    result.fall = expf(-away * point[1]);
    const float within = 1 - away * point[2];
    result.within = within > 0 ? within : 0;
    const float share = point[0] * result.fall * result.within;
    result.share = share < kMaxCoverage ? share : kMaxCoverage;
    return result;
}

// `into`: the gradients of opacity, sharpness, and the dot's x and y, from that of the share.
NPCR_BOTH void cover_grad(const Cover& at, const float* point, float grad_share, float* into) {
    if (point[0] * at.fall * at.within > kMaxCoverage) grad_share = 0;  // clamped
    const float grad_fall = grad_share * point[0] * at.fall;
    const float grad_away = -grad_fall * (at.within * point[1] + (at.within > 0 ? point[2] : 0));
    into[0] = grad_share * at.fall * at.within;
    into[1] = -grad_fall * at.within * (at.dx * at.dx + at.dy * at.dy);
    into[2] = grad_away * 2 * at.dx;
    into[3] = grad_away * 2 * at.dy;
}

// One pixel of npcr_composite. False where an index is out of range; such a dot counts as empty.
template <class Index>
NPCR_BOTH bool composite_pixel(const NpcrComposite& task, int64_t dots, int64_t x, int64_t y) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, pixel = y * task.width + x, channels = task.channels;
    float* values = task.image + pixel * (channels + 1);
    for (int64_t c = 0; c < channels; ++c) values[c] = 0;
    float passing = 1, moment = 0, covered = 0;
    bool sound = true;
    for (int64_t k = 0; k < task.layers; ++k) {
        const int64_t dot = index[k * pixels + pixel];
        if (dot >= task.dot_count) sound = false;
        if (dot < 0 || dot >= task.dot_count) continue;
        const float* point = task.points + dot / dots * (kSplatHead + channels);
        const float share = cover(task.dots + 2 * dot, point, x, y).share;
        const float weight = passing * share;
        for (int64_t c = 0; c < channels; ++c) values[c] += weight * point[kSplatHead + c];
        moment += weight * task.depth[k * pixels + pixel];
        covered += weight;
        passing *= 1 - share;
    }
    for (int64_t c = 0; c < channels; ++c) values[c] += (1 - covered) * task.background[c];
    values[channels] = covered;
    task.mean_depth[pixel] = covered > kMinCoverage ? moment / covered : 0;
    return sound;
}

// The gradients of one pixel's fragments, kSplatParts each at its place in `parts`; returns what is left of the
// background.
template <class Index>
NPCR_BOTH float composite_pixel_grad(const NpcrCompositeGrad& task, int64_t dots, int64_t x, int64_t y, float* parts) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, pixel = y * task.width + x, channels = task.channels;
    const float* grad = task.grad_image + pixel * (channels + 1);
    float of_background = 0, passing = 1;
    for (int64_t c = 0; c < channels; ++c) of_background += grad[c] * task.background[c];
    for (int64_t k = 0; k < task.layers; ++k) {
        const int64_t dot = index[k * pixels + pixel];
        if (dot < 0 || dot >= task.dot_count) continue;  // npcr_composite has refused the latter
        const float* point = task.points + dot / dots * (kSplatHead + channels);
        float of_weight = grad[channels] - of_background;
        for (int64_t c = 0; c < channels; ++c) of_weight += grad[c] * point[kSplatHead + c];
        float* into = parts + (k * pixels + pixel) * kSplatParts;
        into[0] = of_weight;
        into[4] = passing;
        passing *= 1 - cover(task.dots + 2 * dot, point, x, y).share;
    }
    float behind = 0;  // the gradient from the dots further back: they would gain if this one covered nothing
    for (int64_t k = task.layers - 1; k >= 0; --k) {
        const int64_t dot = index[k * pixels + pixel];
        if (dot < 0 || dot >= task.dot_count) continue;
        const float* point = task.points + dot / dots * (kSplatHead + channels);
        float* into = parts + (k * pixels + pixel) * kSplatParts;
        const Cover at = cover(task.dots + 2 * dot, point, x, y);
        const float of_weight = into[0], weight = into[4] * at.share;
        cover_grad(at, point, into[4] * of_weight - behind / (1 - at.share), into);
        into[4] = weight;
        behind += weight * of_weight;
    }
    return passing;
}

// Adds one fragment's gradient to its point's channels from `first` on in steps of `step`, and, by whoever has the
// first channel, to its dot.
NPCR_BOTH void add_fragment(const NpcrCompositeGrad& task, int64_t dots, int64_t dot, int64_t pixel, const float* part,
                            int64_t first, int64_t step) {
    const int64_t channels = task.channels;
    const float* grad = task.grad_image + pixel * (channels + 1);
    float* point = task.grad_points + dot / dots * (kSplatHead + channels);
    for (int64_t c = first; c < kSplatHead + channels; c += step) {
        if (c < 2) point[c] += part[c];
        else if (c >= kSplatHead) point[c] += part[4] * grad[c - kSplatHead];
    }
    if (first == 0) {
        task.grad_dots[2 * dot] += part[2];
        task.grad_dots[2 * dot + 1] += part[3];
    }
}

}  // namespace npcr

#endif
