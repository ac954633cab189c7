// SPDX-License-Identifier: Apache-2.0
// Gate, norm and ReLU pixel by pixel: their gradient, and the norm. Sums are made of fixed groups of
// pixels and added up in order, so they do not depend on the number of threads.

#include <algorithm>
#include <memory>
#include <new>

#include "target_clones.h"
#include "arguments.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kGroup = 1024;  // pixels, or more where there would be too many groups

template <class Task>
bool valid(const Task& task) {
    return task.images >= 0 && task.images <= (1 << 16) && task.pixels >= 0 &&
           task.pixels <= kMaxSide * kMaxSide && task.channels >= 1 && task.channels <= (1 << 20);
}

int thread_count(int64_t threads, int64_t values) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, 1 + values / 65536, 256})));
}

NPCR_TARGET_CLONES void sums_of_pixels(const NpcrGate& task, int64_t image, int64_t first, int64_t last,
                                      float* __restrict sums) {
    const int64_t channels = task.channels;
    // In locals, so that the compiler knows that no store below changes them.
    const float* __restrict scale = task.scale + image * channels;
    const float* __restrict shift = task.shift + image * channels;
    float* __restrict value_sums = sums + channels;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* __restrict y = task.values + pixel * channels;
        const float* __restrict grad = task.grad + pixel * channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float given = grad[i];
            const float du = y[i] * scale[i] + shift[i] > 0.0f ? given : 0.0f;
            sums[i] += du;
            value_sums[i] += du * y[i];
        }
    }
}

NPCR_TARGET_CLONES void grad_of_pixels(const NpcrGate& task, int64_t image, int64_t first, int64_t last,
                                      float* __restrict sums) {
    const int64_t channels = task.channels;
    const float* __restrict scale = task.scale + image * channels;
    const float* __restrict shift = task.shift + image * channels;
    const float* __restrict of_grad = task.of_grad + image * channels;
    const float* __restrict of_value = task.of_value + image * channels;
    const float* __restrict constant = task.constant + image * channels;
    float* __restrict gate_sums = sums + channels;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* __restrict y = task.values + pixel * channels;
        const uint16_t* __restrict gates = task.gates + pixel * channels;
        const float* __restrict grad = task.grad + pixel * channels;
        float* __restrict out = task.grad_raw + pixel * 2 * channels;
        float* __restrict gate_out = out + channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float given = grad[i];
            const float du = y[i] * scale[i] + shift[i] > 0.0f ? given : 0.0f;
            const float dy = (of_grad[i] * du + of_value[i] * y[i]) + constant[i];
            const float gate = static_cast<float>(gates[i]) * (1.0f / 65535.0f);
            const float dconv = dy * gate, dgate = dy * y[i] * (1.0f - gate);
            out[i] = dconv;
            gate_out[i] = dgate;
            sums[i] += dconv;
            gate_sums[i] += dgate;
        }
    }
}

NPCR_TARGET_CLONES void normalize_pixels(const NpcrNormalize& task, int64_t image, int64_t first, int64_t last) {
    const int64_t channels = task.channels;
    const float* __restrict scale = task.scale + image * channels;
    const float* __restrict shift = task.shift + image * channels;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* values = task.values + pixel * channels;  // may be the output
        float* output = task.output + pixel * channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float value = values[i] * scale[i] + shift[i];
            output[i] = value > 0.0f ? value : 0.0f;
        }
    }
}

// The pixels of each image as groups of `size`.
struct Groups {
    int64_t size = kGroup, per_image, count;

    template <class Task>
    explicit Groups(const Task& task) {
        do {
            per_image = (task.pixels + size - 1) / size;
            count = task.images * per_image;
            size *= 2;
        } while (count > ThreadPool::kMaxTasks);
        size /= 2;
    }
};

// work(image, first, last, group): the pixels of all images are counted through.
template <class Task, class Work>
void over_groups(const Task& task, const Groups& groups, Work work) {
    ThreadPool::run(thread_count(task.threads, task.images * task.pixels * task.channels), static_cast<int>(groups.count),
              [&](int group, int) {
                  const int64_t image = group / groups.per_image, first = group % groups.per_image * groups.size;
                  const int64_t origin = image * task.pixels;
                  work(image, origin + first, origin + std::min(task.pixels, first + groups.size), group);
              });
}

using PixelSums = void (*)(const NpcrGate&, int64_t, int64_t, int64_t, float*);

int32_t sum_up(const NpcrGate& task, PixelSums work) {
    if (!valid(task)) return NPCR_BAD_ARGUMENT;
    const Groups groups(task);
    const int64_t width = 2 * task.channels;
    std::unique_ptr<float[]> sums(new (std::nothrow) float[static_cast<size_t>(groups.count * width)]());
    if (!sums) return NPCR_OUT_OF_MEMORY;
    over_groups(task, groups, [&](int64_t image, int64_t first, int64_t last, int64_t group) {
        work(task, image, first, last, sums.get() + group * width);
    });
    std::fill_n(task.sums, task.images * width, 0.0);
    for (int64_t group = 0; group < groups.count; ++group) {
        double* of_image = task.sums + group / groups.per_image * width;
        for (int64_t i = 0; i < width; ++i) of_image[i] += sums[group * width + i];
    }
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_gate_sums(const NpcrGate* task) { return npcr::sum_up(*task, npcr::sums_of_pixels); }

int32_t npcr_gate_grad(const NpcrGate* task) { return npcr::sum_up(*task, npcr::grad_of_pixels); }

int32_t npcr_normalize(const NpcrNormalize* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    over_groups(*task, Groups(*task), [&](int64_t image, int64_t first, int64_t last, int64_t) {
        normalize_pixels(*task, image, first, last);
    });
    return NPCR_OK;
}
