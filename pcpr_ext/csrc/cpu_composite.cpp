// SPDX-License-Identifier: Apache-2.0
// Soft splats, front to back, and the way back. What comes out depends neither on the number of threads nor on
// their timing: each pixel is one thread's, and each point's gradient is summed by one thread in the order of the
// fragments.

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "interface.h"
#include "splat.h"
#include "team.h"

namespace npcr {
namespace {

constexpr int kParts = 5;  // of a fragment's gradient: opacity, sharpness, x, y; and the weight of its values

int composite_team(int64_t threads, int64_t fragments) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, 1 + fragments / 16384, 256})));
}

template <class Index>
bool composite_row(const NpcrComposite& task, int64_t y) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, channels = task.channels, row = 2 + channels;
    const int64_t dots = task.dot_count / std::max<int64_t>(1, task.point_count);
    for (int64_t x = 0; x < task.width; ++x) {
        const int64_t pixel = y * task.width + x;
        float* values = task.image + pixel * (channels + 1);
        std::fill_n(values, channels, 0.0f);
        float passing = 1, moment = 0, covered = 0;
        for (int64_t k = 0; k < task.layers; ++k) {
            const int64_t dot = index[k * pixels + pixel];
            if (dot < 0) continue;
            if (dot >= task.dot_count) return false;
            const float* point = task.points + dot / dots * row;
            const Cover at = cover(task.dots + 2 * dot, static_cast<float>(x), static_cast<float>(y), point[0], point[1]);
            const float weight = passing * at.share;
            for (int64_t c = 0; c < channels; ++c) values[c] += weight * point[2 + c];
            moment += weight * task.depth[k * pixels + pixel];
            covered += weight;
            passing *= 1 - at.share;
        }
        for (int64_t c = 0; c < channels; ++c) values[c] += (1 - covered) * task.background[c];
        values[channels] = covered;
        task.mean_depth[pixel] = covered > kCovered ? moment / covered : 0;
    }
    return true;
}

template <class Index>
int32_t composite(const NpcrComposite& task) {
    std::atomic<bool> outside{false};
    const int threads = composite_team(task.threads, task.layers * task.height * task.width);
    Team::run(threads, static_cast<int>(task.height), [&](int y, int) {
        if (!composite_row<Index>(task, y)) outside.store(true);
    });
    return outside.load() ? NPCR_BAD_INDEX : NPCR_OK;
}

// The gradients of one row's fragments into `parts`, and what the row says of the background's.
template <class Index>
void row_grad(const NpcrCompositeGrad& task, int64_t y, float* parts, double* background) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, channels = task.channels, row = 2 + channels;
    const int64_t dots = task.dot_count / std::max<int64_t>(1, task.point_count);
    std::vector<Cover> covers(task.layers);
    std::vector<float> passing(task.layers), of_weight(task.layers);
    std::fill_n(background, channels, 0.0);
    for (int64_t x = 0; x < task.width; ++x) {
        const int64_t pixel = y * task.width + x;
        const float* grad = task.grad_image + pixel * (channels + 1);
        float of_background = 0, through = 1;
        for (int64_t c = 0; c < channels; ++c) of_background += grad[c] * task.background[c];
        for (int64_t k = 0; k < task.layers; ++k) {
            const int64_t dot = index[k * pixels + pixel];
            if (dot < 0 || dot >= task.dot_count) continue;  // npcr_composite has told of the latter
            const float* point = task.points + dot / dots * row;
            covers[k] = cover(task.dots + 2 * dot, static_cast<float>(x), static_cast<float>(y), point[0], point[1]);
            passing[k] = through;
            through *= 1 - covers[k].share;
            float sum = grad[channels] - of_background;
            for (int64_t c = 0; c < channels; ++c) sum += grad[c] * point[2 + c];
            of_weight[k] = sum;
        }
        float behind = 0;  // what the shares further back would gain if this one covered nothing
        for (int64_t k = task.layers - 1; k >= 0; --k) {
            const int64_t dot = index[k * pixels + pixel];
            if (dot < 0 || dot >= task.dot_count) continue;  // npcr_composite has told of the latter
            const float* point = task.points + dot / dots * row;
            float* into = parts + (k * pixels + pixel) * kParts;
            const float weight = passing[k] * covers[k].share;
            const float grad_share = passing[k] * of_weight[k] - behind / (1 - covers[k].share);
            cover_grad(covers[k], point[0], point[1], grad_share, into);
            into[4] = weight;
            behind += weight * of_weight[k];
        }
        for (int64_t c = 0; c < channels; ++c) background[c] += static_cast<double>(through) * grad[c];
    }
}

// Adds up what the fragments say of one range of points and their dots.
template <class Index>
void add_points(const NpcrCompositeGrad& task, const float* parts, const Share& points) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, channels = task.channels, row = 2 + channels;
    const int64_t dots = task.dot_count / std::max<int64_t>(1, task.point_count);
    const int64_t first = points.first * dots, last = points.last * dots;
    for (int64_t k = 0; k < task.layers; ++k) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const int64_t dot = index[k * pixels + pixel];
            if (dot < first || dot >= last) continue;
            const float* from = parts + (k * pixels + pixel) * kParts;
            const float* grad = task.grad_image + pixel * (channels + 1);
            float* point = task.grad_points + dot / dots * row;
            point[0] += from[0];
            point[1] += from[1];
            for (int64_t c = 0; c < channels; ++c) point[2 + c] += from[4] * grad[c];
            task.grad_dots[2 * dot] += from[2];
            task.grad_dots[2 * dot + 1] += from[3];
        }
    }
}

template <class Index>
void composite_grad(const NpcrCompositeGrad& task) {
    const int64_t rows = task.height, fragments = task.layers * task.height * task.width;
    const int threads = composite_team(task.threads, fragments);
    double* backgrounds = static_cast<double*>(task.scratch);
    float* parts = reinterpret_cast<float*>(backgrounds + rows * task.channels);
    Team::run(threads, static_cast<int>(rows), [&](int y, int) {
        row_grad<Index>(task, y, parts, backgrounds + y * task.channels);
    });
    Team::run(threads, threads, [&](int part, int) {
        add_points<Index>(task, parts, Share(task.point_count, part, threads));
    });
    for (int64_t c = 0; c < task.channels; ++c) {
        double total = 0;
        for (int64_t y = 0; y < rows; ++y) total += backgrounds[y * task.channels + c];
        task.grad_background[c] = static_cast<float>(total);
    }
}

}  // namespace
}  // namespace npcr

int32_t npcr_composite(const NpcrComposite* task) {
    if (!npcr::valid_composite(*task)) return NPCR_BAD_ARGUMENT;
    try {
        return task->index_bytes == 4 ? npcr::composite<int32_t>(*task) : npcr::composite<int64_t>(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
}

int64_t npcr_composite_grad_scratch(const NpcrCompositeGrad* task) {
    if (!npcr::valid_composite(*task)) return NPCR_BAD_ARGUMENT;
    return task->height * task->channels * static_cast<int64_t>(sizeof(double)) +
           task->layers * task->height * task->width * npcr::kParts * static_cast<int64_t>(sizeof(float));
}

int32_t npcr_composite_grad(const NpcrCompositeGrad* task) {
    const int64_t needed = npcr_composite_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    try {
        if (task->index_bytes == 4) npcr::composite_grad<int32_t>(*task);
        else npcr::composite_grad<int64_t>(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}
