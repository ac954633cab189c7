// SPDX-License-Identifier: Apache-2.0
// Ellipses composited front to back on a GPU, and the way back. A block is a tile and a thread a pixel; a warp has 8 x 4
// of them, and passes by all ellipses that reach none. Ellipses and values come through shared memory, some at a time.
// On the way back each pair of tile and ellipse has a part of its own in memory, and each ellipse's are added up
// afterwards: no atomics, and all sums in a fixed order. Many channels are done in chunks, as if each were a task.

#include <stdint.h>

#include "cuda_launch.h"
#include "cuda_warp.h"
#include "ellipse.h"
#include "arguments.h"

namespace npcr {
namespace {

constexpr int kThreads = kTile * kTile;
constexpr int kWarps = kThreads / kWarp;
constexpr int kColumns = 8, kRows = 4;  // of a warp's pixels
constexpr int kMostChannels = 32;       // of a chunk
constexpr int kRowFloats = kEllipse + 4;  // of an ellipse in shared memory: the lanes of a warp read different banks

int64_t chunks_of(int64_t channels) { return channels ? (channels + kMostChannels - 1) / kMostChannels : 1; }

// What a block works on.
struct Part {
    int64_t x, y;         // of the tile's first pixel
    int64_t first, last;  // of its pairs
    int64_t chunk;
    int channels;  // of the chunk

    template <class Task>
    __device__ Part(const Task& task, int64_t chunks) {
        const int64_t tile = blockIdx.x / chunks, across = tiles_across(task.width);
        chunk = blockIdx.x % chunks;
        const int64_t rest = task.channels - chunk * kMostChannels;
        channels = static_cast<int>(rest < kMostChannels ? rest : kMostChannels);
        x = tile % across * kTile;
        y = tile / across * kTile;
        first = task.starts[tile];
        last = task.starts[tile + 1];
    }
};

// A thread's pixel, and where its warp's begin, counted from the tile's first.
struct Place {
    int warp, lane, left, top, column, row;
    int64_t at;  // in the image; negative outside of it

    __device__ Place(const Part& part, int64_t width, int64_t height)
        : warp(threadIdx.x / kWarp),
          lane(threadIdx.x % kWarp),
          left(warp % (kTile / kColumns) * kColumns),
          top(warp / (kTile / kColumns) * kRows),
          column(left + lane % kColumns),
          row(top + lane / kColumns),
          at(part.x + column < width && part.y + row < height ? (part.y + row) * width + part.x + column : -1) {}
};

template <int kPad, int kBatch>
struct Staged {
    alignas(16) float ellipses[kBatch][kRowFloats];  // their centers counted from the tile's first pixel
    alignas(16) float values[kBatch][kPad];
};

// Fetches `count` pairs from `first` on for the whole block.
template <int kPad, int kBatch, class Task>
__device__ __forceinline__ void stage(const Task& task, const Part& part, int64_t first, int count,
                                      Staged<kPad, kBatch>& staged) {
    for (int i = threadIdx.x; i < count * kEllipse; i += kThreads) {
        const int pair = i / kEllipse, k = i % kEllipse;
        const float number = task.ellipses[kEllipse * static_cast<int64_t>(task.members[first + pair]) + k];
        const int64_t origin = k == 0 ? part.x : part.y;
        staged.ellipses[pair][k] = k < 2 ? number - static_cast<float>(origin) : number;
    }
    const float* values = task.values + part.chunk * kMostChannels;
    for (int i = threadIdx.x; i < count * kPad; i += kThreads) {
        const int pair = i / kPad, c = i % kPad;
        staged.values[pair][c] = c < part.channels ? values[task.channels * task.members[first + pair] + c] : 0.0f;
    }
    __syncthreads();
}

// Whether an ellipse reaches the pixels of a warp.
__device__ __forceinline__ bool reaches(const float* ellipse, const Place& place) {
    const float top = static_cast<float>(place.top) - ellipse[1];
    const Span span = rows_span(ellipse, top, top + (kRows - 1));
    const float left = static_cast<float>(place.left) - ellipse[0];
    return span.first <= span.last && span.first <= left + (kColumns - 1) && span.last >= left;
}

template <int kPad>
__global__ void __launch_bounds__(kThreads) composite_tiles(NpcrCompositeGaussians task, int64_t chunks) {
    constexpr int kBatch = 4 * kWarp;
    __shared__ Staged<kPad, kBatch> staged;
    const Part part(task, chunks);
    const Place place(part, task.width, task.height);
    float sums[kPad] = {}, depth = 0, passing = 1;
    int32_t end = 0;
    for (int64_t first = part.first; first < part.last; first += kBatch) {
        if (__syncthreads_and(place.at < 0 || passing < kPassingStop)) break;
        const int count = static_cast<int>(part.last - first < kBatch ? part.last - first : kBatch);
        stage(task, part, first, count, staged);
        for (int from = 0; from < count; from += kWarp) {
            if (__all_sync(kAllLanes, place.at < 0 || passing < kPassingStop)) break;
            const int mine = from + place.lane;
            unsigned waiting = __ballot_sync(kAllLanes, mine < count && reaches(staged.ellipses[mine], place));
            for (; waiting != 0; waiting &= waiting - 1) {
                const int pair = from + __ffs(waiting) - 1;
                const float* ellipse = staged.ellipses[pair];
                float share;
                ellipse_share(ellipse, static_cast<float>(place.column) - ellipse[0],
                              static_cast<float>(place.row) - ellipse[1], share);
                if (!(share > 0) || passing < kPassingStop) continue;
                const float weight = passing * share;
#pragma unroll
                for (int c = 0; c < kPad; ++c) sums[c] = fmaf(weight, staged.values[pair][c], sums[c]);
                depth = fmaf(weight, ellipse[6], depth);
                passing *= 1 - share;
                end = static_cast<int32_t>(first - part.first) + pair + 1;
            }
        }
    }
    if (place.at < 0) return;
    float* image = task.image + place.at * (task.channels + 1);
#pragma unroll
    for (int c = 0; c < kPad; ++c) {
        if (c < part.channels) image[part.chunk * kMostChannels + c] = sums[c];
    }
    if (part.chunk > 0) return;
    const float covered = 1 - passing;
    image[task.channels] = covered;
    task.mean_depth[place.at] = covered > kMinCovered ? depth / covered : 0;
    task.passing[place.at] = passing;
    task.ends[place.at] = end;
}

// A pair's part of the gradients: those of the ellipse for each chunk, then those of the values.
__device__ __forceinline__ int64_t part_floats(int64_t channels, int64_t chunks) {
    return kEllipseGrads * chunks + channels;
}

template <int kPad>
__global__ void __launch_bounds__(kThreads, kPad > 16 ? 2 : 3)  // blocks at a time: as many as registers do for
    composite_tiles_grad(NpcrCompositeGaussiansGrad task, int64_t chunks, float* parts) {
    constexpr int kBatch = kWarp, kSums = kEllipseGrads + kPad;
    __shared__ Staged<kPad, kBatch> staged;
    __shared__ float sums[kWarps][kBatch][kSums];
    __shared__ unsigned summed[kWarps];  // of which pairs there are sums
    const Part part(task, chunks);
    const Place place(part, task.width, task.height);
    float grads[kPad], of_coverage = 0, passing = 1, other = 0;  // other: what comes from behind
    int32_t end = 0;
    const float* image = task.grad_image + place.at * (task.channels + 1);
#pragma unroll
    for (int c = 0; c < kPad; ++c) {
        grads[c] = place.at >= 0 && c < part.channels ? image[part.chunk * kMostChannels + c] : 0.0f;
    }
    if (place.at >= 0) {
        if (part.chunk == 0) of_coverage = image[task.channels];
        passing = task.passing[place.at];
        end = task.ends[place.at];
    }
    int32_t last_end = end;  // of the warp's pixels
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const int32_t their_end = __shfl_xor_sync(kAllLanes, last_end, distance);
        last_end = their_end > last_end ? their_end : last_end;
    }
    const int64_t floats = part_floats(task.channels, chunks);
    for (int64_t last = part.last; last > part.first; last -= kBatch) {
        const int64_t first = last - part.first > kBatch ? last - kBatch : part.first;
        const int count = static_cast<int>(last - first);
        const int32_t before = static_cast<int32_t>(first - part.first);
        stage(task, part, first, count, staged);
        unsigned done = 0;
        unsigned waiting = __ballot_sync(kAllLanes, place.lane < count && before + place.lane < last_end &&
                                                        reaches(staged.ellipses[place.lane], place));
        while (waiting != 0) {
            const int pair = kWarp - 1 - __clz(static_cast<int>(waiting));
            waiting ^= 1u << pair;
            const float* ellipse = staged.ellipses[pair];
            const float dx = static_cast<float>(place.column) - ellipse[0];
            const float dy = static_cast<float>(place.row) - ellipse[1];
            float share;
            ellipse_share(ellipse, dx, dy, share);
            const bool covered = share > 0 && before + pair < end;
            if (!__any_sync(kAllLanes, covered)) continue;
            float numbers[kSums] = {};
            if (covered) {
                const float rest = 1 / (1 - share);
                passing *= rest;
                const float weight = passing * share;
                float of_weight = of_coverage;
#pragma unroll
                for (int c = 0; c < kPad; ++c) {
                    of_weight = fmaf(staged.values[pair][c], grads[c], of_weight);
                    numbers[kEllipseGrads + c] = weight * grads[c];
                }
                ellipse_share_grad(ellipse, dx, dy, share, passing * of_weight - other * rest, numbers);
                other = fmaf(weight, of_weight, other);
            }
            sum_over_warp<kSums>(numbers, place.lane, sums[place.warp][pair]);
            done |= 1u << pair;
        }
        if (place.lane == 0) summed[place.warp] = done;
        __syncthreads();
        for (int i = threadIdx.x; i < count * kSums; i += kThreads) {
            const int pair = i / kSums, k = i % kSums;
            if (k >= kEllipseGrads + part.channels) continue;
            float sum = 0;
            for (int warp = 0; warp < kWarps; ++warp) {
                if (summed[warp] >> pair & 1) sum += sums[warp][pair][k];
            }
            const int64_t to = k < kEllipseGrads ? kEllipseGrads * part.chunk + k
                                                 : kEllipseGrads * (chunks - 1) + kMostChannels * part.chunk + k;
            parts[task.slots[first + pair] * floats + to] = sum;
        }
    }
}

// A thread for each number of each ellipse's gradient, of those of its values too.
__global__ void __launch_bounds__(kThreads)
    sum_parts(NpcrCompositeGaussiansGrad task, int64_t chunks, const float* parts) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, numbers = kEllipse + task.channels;
    const int64_t floats = part_floats(task.channels, chunks);
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.count * numbers; i += step) {
        const int64_t row = i / numbers, k = i % numbers, ellipse = task.order[row];
        const bool of_value = k >= kEllipse;
        const int64_t from = of_value ? kEllipseGrads * chunks + k - kEllipse : k;
        const int64_t times = of_value ? 1 : k < kEllipseGrads ? chunks : 0;  // depth and radius have no gradient
        float sum = 0;
        for (int64_t pair = task.offsets[row]; times > 0 && pair < task.offsets[row + 1]; ++pair) {
            for (int64_t chunk = 0; chunk < times; ++chunk) sum += parts[pair * floats + from + kEllipseGrads * chunk];
        }
        // The opacity's has still to be divided by it; what no pixel shows may have none.
        if (k == kEllipseGrads - 1 && sum != 0) sum /= task.ellipses[kEllipse * ellipse + k];
        if (of_value) {
            task.grad_values[task.channels * ellipse + k - kEllipse] = sum;
        } else {
            task.grad_ellipses[kEllipse * ellipse + k] = sum;
        }
    }
}

template <class Task>
unsigned blocks_of(const Task& task) {
    return static_cast<unsigned>(tiles_across(task.width) * tiles_across(task.height) * chunks_of(task.channels));
}

template <int kPad>
void launch(const NpcrCompositeGaussians& task) {
    NPCR_LAUNCH((composite_tiles<kPad>), blocks_of(task), kThreads, static_cast<cudaStream_t>(task.stream), task,
                chunks_of(task.channels));
}

template <int kPad>
void launch(const NpcrCompositeGaussiansGrad& task) {
    NPCR_LAUNCH((composite_tiles_grad<kPad>), blocks_of(task), kThreads, static_cast<cudaStream_t>(task.stream), task,
                chunks_of(task.channels), static_cast<float*>(task.scratch));
}

// With room for the channels in whole vectors.
template <class Task>
int32_t launch_padded(const Task& task) {
    if (task.channels <= 4) {
        launch<4>(task);
    } else if (task.channels <= 8) {
        launch<8>(task);
    } else if (task.channels <= 12) {
        launch<12>(task);
    } else if (task.channels <= 16) {
        launch<16>(task);
    } else {
        launch<kMostChannels>(task);
    }
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_composite_gaussians(const NpcrCompositeGaussians* task) {
    if (!npcr::valid_values(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::launch_padded(*task);
}

int64_t npcr_composite_gaussians_grad_scratch(const NpcrCompositeGaussiansGrad* task) {
    if (!npcr::valid_values(*task)) return NPCR_BAD_ARGUMENT;
    return task->pairs * (npcr::kEllipseGrads * npcr::chunks_of(task->channels) + task->channels) *
           static_cast<int64_t>(sizeof(float));
}

int32_t npcr_composite_gaussians_grad(const NpcrCompositeGaussiansGrad* task) {
    const int64_t needed = npcr_composite_gaussians_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    const int32_t status = npcr::launch_padded(*task);
    if (status != NPCR_OK) return status;
    NPCR_LAUNCH(npcr::sum_parts, npcr::blocks_for(task->count * (npcr::kEllipse + task->channels), npcr::kThreads),
                npcr::kThreads, static_cast<cudaStream_t>(task->stream), *task, npcr::chunks_of(task->channels),
                static_cast<const float*>(task->scratch));
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}
