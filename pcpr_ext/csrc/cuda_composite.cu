// SPDX-License-Identifier: Apache-2.0
// Soft splats on a GPU: a thread a pixel, and on the way back a group of lanes a point. No atomics: the caller sorts
// the fragments by point (stably), so that each point's are added up in the order of the CPU's kernel.

#include <stdint.h>

#include "cuda_launch.h"
#include "arguments.h"
#include "splat.h"

namespace npcr {
namespace {

constexpr int kThreads = 128;
constexpr int kSplatLanes = 16;    // side by side in a point's channels
constexpr int kSplatGroups = 8;    // points at a time in a block
constexpr int64_t kPixelsPerSum = 4096;

template <class Index>
__global__ void composite_pixels(NpcrComposite task, int64_t dots) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, pixels = task.height * task.width;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels; i += step) {
        composite_pixel<Index>(task, dots, i % task.width, i / task.width);
    }
}

// `left`: what each pixel leaves of the background.
template <class Index>
__global__ void pixel_grads(NpcrCompositeGrad task, int64_t dots, float* parts, float* left) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, pixels = task.height * task.width;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels; i += step) {
        left[i] = composite_pixel_grad<Index>(task, dots, i % task.width, i / task.width, parts);
    }
}

// task.order: fragments sorted by point, empty ones first. The group at a point's first fragment adds up all of them.
template <class Index>
__global__ void add_points(NpcrCompositeGrad task, int64_t dots, const float* parts) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t pixels = task.height * task.width, fragments = task.layers * pixels;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kSplatGroups;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kSplatGroups + threadIdx.y; i < fragments; i += step) {
        const int64_t dot = index[task.order[i]], point = dot / dots;
        if (dot < 0 || dot >= task.dot_count) continue;
        if (i > 0 && index[task.order[i - 1]] >= 0 && index[task.order[i - 1]] / dots == point) continue;
        for (int64_t j = i; j < fragments; ++j) {
            const int64_t fragment = task.order[j], at = index[fragment];
            if (at >= task.dot_count || at / dots != point) break;
            add_fragment(task, dots, at, fragment % pixels, parts + fragment * kSplatParts, threadIdx.x, kSplatLanes);
        }
    }
}

__global__ void sum_background(NpcrCompositeGrad task, int64_t sums, const float* left, double* partial) {
    const int64_t pixels = task.height * task.width;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < sums * task.channels; i += step) {
        const int64_t first = i / task.channels * kPixelsPerSum, channel = i % task.channels;
        const int64_t last = first + kPixelsPerSum < pixels ? first + kPixelsPerSum : pixels;
        double sum = 0.0;
        for (int64_t pixel = first; pixel < last; ++pixel) {
            sum += static_cast<double>(left[pixel]) * task.grad_image[pixel * (task.channels + 1) + channel];
        }
        partial[i] = sum;
    }
}

__global__ void sum_sums(NpcrCompositeGrad task, int64_t sums, const double* partial) {
    const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (channel >= task.channels) return;
    double sum = 0.0;
    for (int64_t i = 0; i < sums; ++i) sum += partial[i * task.channels + channel];
    task.grad_background[channel] = static_cast<float>(sum);
}

template <class Index>
int32_t composite(const NpcrComposite& task) {
    NPCR_LAUNCH((composite_pixels<Index>), blocks_for(task.height * task.width, kThreads), kThreads,
                static_cast<cudaStream_t>(task.stream), task, task.dot_count / task.point_count);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

int64_t background_sums(const NpcrCompositeGrad& task) {
    return (task.height * task.width + kPixelsPerSum - 1) / kPixelsPerSum;
}

template <class Index>
int32_t composite_grad(const NpcrCompositeGrad& task) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const int64_t pixels = task.height * task.width, dots = task.dot_count / task.point_count;
    const int64_t sums = background_sums(task);
    const uintptr_t address = (reinterpret_cast<uintptr_t>(task.scratch) + 15) & ~static_cast<uintptr_t>(15);
    double* partial = reinterpret_cast<double*>(address);
    float* left = reinterpret_cast<float*>(partial + sums * task.channels);
    float* parts = left + pixels;
    NPCR_LAUNCH((pixel_grads<Index>), blocks_for(pixels, kThreads), kThreads, stream, task, dots, parts, left);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH((add_points<Index>), blocks_for(task.layers * pixels, kSplatGroups), dim3(kSplatLanes, kSplatGroups),
                stream, task, dots, parts);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH(sum_background, blocks_for(sums * task.channels, kThreads), kThreads, stream, task, sums, left, partial);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH(sum_sums, static_cast<unsigned>((task.channels + kThreads - 1) / kThreads), kThreads, stream, task, sums,
                partial);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_composite(const NpcrComposite* task) {
    if (!npcr::valid_composite(*task)) return NPCR_BAD_ARGUMENT;
    return task->index_bytes == 4 ? npcr::composite<int32_t>(*task) : npcr::composite<int64_t>(*task);
}

int64_t npcr_composite_grad_scratch(const NpcrCompositeGrad* task) {
    if (!npcr::valid_composite(*task)) return NPCR_BAD_ARGUMENT;
    const int64_t pixels = task->height * task->width;
    return 16 + npcr::background_sums(*task) * task->channels * static_cast<int64_t>(sizeof(double)) +
           pixels * (1 + task->layers * npcr::kSplatParts) * static_cast<int64_t>(sizeof(float));
}

int32_t npcr_composite_grad(const NpcrCompositeGrad* task) {
    const int64_t needed = npcr_composite_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return task->index_bytes == 4 ? npcr::composite_grad<int32_t>(*task) : npcr::composite_grad<int64_t>(*task);
}
