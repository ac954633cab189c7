// SPDX-License-Identifier: Apache-2.0
// Features of the winning points on a GPU, and the way back. No atomics: the caller sorts the fragments by
// point (stably), and each point's fragments are added up by one group of lanes in their order, which is
// also the order of the CPU's kernel.

#include <stdint.h>

#include "cuda_launch.h"
#include "arguments.h"

namespace npcr {
namespace {

constexpr int kLanes = 32;         // side by side in the channels
constexpr int kGroups = 8;         // fragments at a time in a block
constexpr int64_t kRowsPerSum = 4096;

template <class Index, class Value>
__global__ void gather_rows(int64_t fragments, int64_t channels, int64_t point_count, const Index* index,
                            const Value* features, const Value* default_feature, Value* output) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kGroups;
    const int64_t start = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.y;
    for (int64_t i = start; i < fragments; i += step) {
        const int64_t point = index[i];
        const bool some = point >= 0 && point < point_count;
        const Value* row = some ? features + point * channels : default_feature;
        for (int64_t channel = threadIdx.x; channel < channels; channel += kLanes) {
            output[i * channels + channel] = row[channel];
        }
    }
}

// `index` ascends. The group at the first fragment of a point adds up all of that point's.
template <class Index>
__global__ void add_rows(NpcrScatter task) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t step = static_cast<int64_t>(gridDim.x) * kGroups;
    const int64_t start = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.y;
    for (int64_t i = start; i < task.fragments; i += step) {
        const Index point = index[i];
        if (point < 0 || point >= task.point_count || (i > 0 && index[i - 1] == point)) continue;
        for (int64_t channel = threadIdx.x; channel < task.channels; channel += kLanes) {
            float sum = 0.0f;
            for (int64_t j = i; j < task.fragments && index[j] == point; ++j) {
                sum += task.grad_output[task.order[j] * task.channels + channel];
            }
            task.grad_features[static_cast<int64_t>(point) * task.channels + channel] = sum;
        }
    }
}

// Sums of kRowsPerSum empty fragments each, which come first in the sorted index.
template <class Index>
__global__ void sum_empty(NpcrScatter task, int64_t sums, double* partial) {
    __shared__ double shared[kGroups][kLanes];
    const Index* index = static_cast<const Index*>(task.index);
    for (int64_t block = blockIdx.x; block < sums; block += gridDim.x) {
        const int64_t end = (block + 1) * kRowsPerSum;
        const int64_t last = end < task.fragments ? end : task.fragments;
        for (int64_t first_channel = 0; first_channel < task.channels; first_channel += kLanes) {
            const int64_t channel = first_channel + threadIdx.x;
            double sum = 0.0;
            if (channel < task.channels) {
                for (int64_t i = block * kRowsPerSum + threadIdx.y; i < last && index[i] < 0; i += kGroups) {
                    sum += task.grad_output[task.order[i] * task.channels + channel];
                }
            }
            shared[threadIdx.y][threadIdx.x] = sum;
            __syncthreads();
            if (threadIdx.y == 0 && channel < task.channels) {
                for (int group = 1; group < kGroups; ++group) sum += shared[group][threadIdx.x];
                partial[block * task.channels + channel] = sum;
            }
            __syncthreads();
        }
    }
}

__global__ void sum_partial(int64_t channels, int64_t sums, const double* partial, float* grad_default) {
    const int64_t channel = static_cast<int64_t>(blockIdx.x) * kLanes + threadIdx.x;
    if (channel >= channels) return;
    double sum = 0.0;
    for (int64_t i = 0; i < sums; ++i) sum += partial[i * channels + channel];
    grad_default[channel] = static_cast<float>(sum);
}

template <class Index, class Value>
int32_t gather_as(const NpcrGather& task, int64_t values) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    NPCR_LAUNCH((gather_rows<Index, Value>), blocks_for(task.fragments, kGroups), dim3(kLanes, kGroups),
                stream, task.fragments, values, task.point_count, static_cast<const Index*>(task.index),
                reinterpret_cast<const Value*>(task.features),
                reinterpret_cast<const Value*>(task.default_feature), reinterpret_cast<Value*>(task.output));
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

template <class Index>
int32_t gather(const NpcrGather& task) {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(task.features) |
                                reinterpret_cast<uintptr_t>(task.default_feature) |
                                reinterpret_cast<uintptr_t>(task.output);
    // Four channels at a time where every row starts on a multiple of 16 bytes.
    const bool by_four = task.channels % 4 == 0 && addresses % sizeof(float4) == 0;
    return by_four ? gather_as<Index, float4>(task, task.channels / 4)
                   : gather_as<Index, float>(task, task.channels);
}

int64_t partial_sums(const NpcrScatter& task) { return (task.fragments + kRowsPerSum - 1) / kRowsPerSum; }

template <class Index>
int32_t scatter(const NpcrScatter& task) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const dim3 threads(kLanes, kGroups);
    const uintptr_t address = (reinterpret_cast<uintptr_t>(task.scratch) + 15) & ~static_cast<uintptr_t>(15);
    double* partial = reinterpret_cast<double*>(address);
    const int64_t sums = partial_sums(task);
    NPCR_LAUNCH((add_rows<Index>), blocks_for(task.fragments, kGroups), threads, stream, task);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH((sum_empty<Index>), blocks_for(sums, 1), threads, stream, task, sums, partial);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH(sum_partial, static_cast<unsigned>((task.channels + kLanes - 1) / kLanes), kLanes, stream,
                task.channels, sums, partial, task.grad_default);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_gather(const NpcrGather* task) {
    if (!npcr::valid_features(*task)) return NPCR_BAD_ARGUMENT;
    return task->index_bytes == 4 ? npcr::gather<int32_t>(*task) : npcr::gather<int64_t>(*task);
}

int64_t npcr_scatter_scratch(const NpcrScatter* task) {
    if (!npcr::valid_features(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::partial_sums(*task) * task->channels * static_cast<int64_t>(sizeof(double)) + 16;
}

int32_t npcr_scatter(const NpcrScatter* task) {
    const int64_t needed = npcr_scatter_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return task->index_bytes == 4 ? npcr::scatter<int32_t>(*task) : npcr::scatter<int64_t>(*task);
}
