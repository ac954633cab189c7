// SPDX-License-Identifier: Apache-2.0
// Features of the winning points, and the way back. Both results depend neither on the number of threads
// nor on their timing.

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "arguments.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kRowsPerSum = 4096;  // rows of the default's gradient that are summed at a time
constexpr int64_t kRowsPerTask = 4096;


int thread_count(int64_t threads, int64_t values) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, 1 + values / 65536, 256})));
}

int tasks_for(int64_t rows) {
    return static_cast<int>(std::min<int64_t>((rows + kRowsPerTask - 1) / kRowsPerTask, ThreadPool::kMaxTasks / 2));
}

template <class Index>
int32_t gather(const NpcrGather& task) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t channels = task.channels;
    const int tasks = tasks_for(task.fragments);
    std::atomic<bool> outside{false};
    ThreadPool::run(thread_count(task.threads, task.fragments * channels), tasks, [&](int part, int) {
        const Share rows(task.fragments, part, tasks);
        for (int64_t i = rows.first; i < rows.last; ++i) {
            const int64_t point = index[i];
            if (point >= task.point_count) {
                outside.store(true);
                return;
            }
            const float* row = point < 0 ? task.default_feature : task.features + point * channels;
            std::copy_n(row, channels, task.output + i * channels);
        }
    });
    return outside.load() ? NPCR_BAD_INDEX : NPCR_OK;
}

// The default's gradient: sums of kRowsPerSum rows each, which are then added up in order. Float64, as
// there may be millions of empty pixels.
template <class Index>
void sum_empty(const NpcrScatter& task, const Index* index, int64_t block, double* sum) {
    std::fill_n(sum, task.channels, 0.0);
    const int64_t last = std::min(task.fragments, (block + 1) * kRowsPerSum);
    for (int64_t i = block * kRowsPerSum; i < last; ++i) {
        if (index[i] >= 0) continue;
        const float* row = task.grad_output + i * task.channels;
        for (int64_t channel = 0; channel < task.channels; ++channel) sum[channel] += row[channel];
    }
}

// Reads all indices and adds the rows of one range of points, in the order of fragments.
template <class Index>
void add_rows(const NpcrScatter& task, const Index* index, const Share& points) {
    for (int64_t i = 0; i < task.fragments; ++i) {
        const int64_t point = index[i];
        if (point < points.first || point >= points.last) continue;
        const float* from = task.grad_output + i * task.channels;
        float* to = task.grad_features + point * task.channels;
        for (int64_t channel = 0; channel < task.channels; ++channel) to[channel] += from[channel];
    }
}

template <class Index>
void scatter(const NpcrScatter& task) {
    const Index* index = static_cast<const Index*>(task.index);
    const int64_t blocks = (task.fragments + kRowsPerSum - 1) / kRowsPerSum;
    double* sums = static_cast<double*>(task.scratch);
    const int threads = thread_count(task.threads, task.fragments * task.channels);
    const int parts = tasks_for(task.fragments);
    // First a range of points for each thread, then the sums, which even out the threads' load.
    ThreadPool::run(threads, threads + parts, [&](int part, int) {
        if (part < threads) return add_rows(task, index, Share(task.point_count, part, threads));
        const Share share(blocks, part - threads, parts);
        for (int64_t block = share.first; block < share.last; ++block) {
            sum_empty(task, index, block, sums + block * task.channels);
        }
    });
    for (int64_t channel = 0; channel < task.channels; ++channel) {
        double total = 0.0;
        for (int64_t block = 0; block < blocks; ++block) total += sums[block * task.channels + channel];
        task.grad_default[channel] = static_cast<float>(total);
    }
}

}  // namespace
}  // namespace npcr

int32_t npcr_gather(const NpcrGather* task) {
    if (!npcr::valid_features(*task)) return NPCR_BAD_ARGUMENT;
    try {
        return task->index_bytes == 4 ? npcr::gather<int32_t>(*task) : npcr::gather<int64_t>(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
}

int64_t npcr_scatter_scratch(const NpcrScatter* task) {
    if (!npcr::valid_features(*task)) return NPCR_BAD_ARGUMENT;
    const int64_t blocks = (task->fragments + npcr::kRowsPerSum - 1) / npcr::kRowsPerSum;
    return blocks * task->channels * static_cast<int64_t>(sizeof(double));
}

int32_t npcr_scatter(const NpcrScatter* task) {
    const int64_t needed = npcr_scatter_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    try {
        if (task->index_bytes == 4) npcr::scatter<int32_t>(*task);
        else npcr::scatter<int64_t>(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}
