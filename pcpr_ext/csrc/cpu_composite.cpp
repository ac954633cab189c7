// SPDX-License-Identifier: Apache-2.0
// Soft splats, front to back, and the way back. What comes out depends neither on the number of threads nor on
// their timing: each pixel is one thread's, and each point's gradient is summed by one thread in the order of the
// fragments.

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "arguments.h"
#include "splat.h"
#include "thread_pool.h"

namespace npcr {
namespace {

int thread_count(int64_t threads, int64_t fragments) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, 1 + fragments / 16384, 256})));
}

template <class Index>
int32_t composite(const NpcrComposite& task) {
    std::atomic<bool> outside{false};
    const int64_t dots = task.dot_count / task.point_count;
    const int threads = thread_count(task.threads, task.layers * task.height * task.width);
    ThreadPool::run(threads, static_cast<int>(task.height), [&](int y, int) {
        for (int64_t x = 0; x < task.width; ++x) {
            if (!composite_pixel<Index>(task, dots, x, y)) outside.store(true);
        }
    });
    return outside.load() ? NPCR_BAD_INDEX : NPCR_OK;
}

// Adds up the fragments' gradients of one range of points and their dots.
template <class Index>
void add_points(const NpcrCompositeGrad& task, const float* parts, const Share& points) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, dots = task.dot_count / task.point_count;
    const int64_t first = points.first * dots, last = points.last * dots;
    for (int64_t k = 0; k < task.layers; ++k) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const int64_t dot = index[k * pixels + pixel];
            if (dot < first || dot >= last) continue;
            add_fragment(task, dots, dot, pixel, parts + (k * pixels + pixel) * kSplatParts, 0, 1);
        }
    }
}

template <class Index>
void composite_grad(const NpcrCompositeGrad& task) {
    const int64_t rows = task.height, channels = task.channels, dots = task.dot_count / task.point_count;
    const int threads = thread_count(task.threads, task.layers * task.height * task.width);
    double* backgrounds = static_cast<double*>(task.scratch);  // a sum for each row
    float* parts = reinterpret_cast<float*>(backgrounds + rows * channels);
    ThreadPool::run(threads, static_cast<int>(rows), [&](int y, int) {
        double* background = backgrounds + y * channels;
        std::fill_n(background, channels, 0.0);
        for (int64_t x = 0; x < task.width; ++x) {
            const double left = composite_pixel_grad<Index>(task, dots, x, y, parts);
            const float* grad = task.grad_image + (y * task.width + x) * (channels + 1);
            for (int64_t c = 0; c < channels; ++c) background[c] += left * grad[c];
        }
    });
    ThreadPool::run(threads, threads, [&](int part, int) {
        add_points<Index>(task, parts, Share(task.point_count, part, threads));
    });
    for (int64_t c = 0; c < channels; ++c) {
        double total = 0;
        for (int64_t y = 0; y < rows; ++y) total += backgrounds[y * channels + c];
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
           task->layers * task->height * task->width * npcr::kSplatParts * static_cast<int64_t>(sizeof(float));
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
