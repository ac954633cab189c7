// SPDX-License-Identifier: Apache-2.0
// The C interface of both native libraries. It knows nothing of torch: raw pointers, sizes, and for the
// CUDA library a stream. The caller allocates everything, scratch memory too. The CPU library takes host
// pointers and ignores `stream`; the CUDA library takes device pointers, ignores `threads`, queues its
// work on `stream` and never waits for it. pcpr_ext/__init__.py mirrors the structures; whoever changes
// one raises NPCR_ABI_VERSION in both places.
#ifndef NPCR_INTERFACE_H
#define NPCR_INTERFACE_H

#include <stdint.h>

#define NPCR_ABI_VERSION 1
#define NPCR_API extern "C" __attribute__((visibility("default")))

// Returned where it is no CUDA error (those are positive).
enum NpcrStatus {
    NPCR_OK = 0,
    NPCR_BAD_ARGUMENT = -1,
    NPCR_SCRATCH_TOO_SMALL = -2,
    NPCR_OUT_OF_MEMORY = -3,
    NPCR_BAD_INDEX = -4,  // CPU only; on a GPU such an index counts as empty, since nothing waits to see it
};

struct NpcrRasterise {
    const float* points;        // (point_count, 3)
    const float* cam_to_world;  // (cameras, 4, 4)
    const float* intrinsics;    // (cameras, 3, 3)
    int64_t point_count, cameras, width, height, layers;
    float near_depth, far_depth, max_size;
    int32_t peel_pixels;  // 0: layers by points, 1: layers by pixels
    int32_t index_bytes;  // 4: int32 indices, 8: int64
    int32_t threads;
    void* index;   // (cameras, layers, height, width), -1 where empty
    float* depth;  // (cameras, layers, height, width), 0 where empty
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

struct NpcrGather {
    const float* features;         // (point_count, channels)
    const float* default_feature;  // (channels)
    const void* index;             // (fragments), below point_count; a negative one takes default_feature
    int64_t point_count, channels, fragments;
    int32_t index_bytes;
    int32_t threads;
    float* output;  // (fragments, channels)
    void* stream;
};

struct NpcrScatter {
    const float* grad_output;  // (fragments, channels)
    const void* index;         // (fragments); CUDA: sorted in ascending order
    const int64_t* order;      // (fragments) CUDA: row of grad_output that belongs to index[i]; CPU: unused
    int64_t point_count, channels, fragments;
    int32_t index_bytes;
    int32_t threads;
    float* grad_features;  // (point_count, channels), zero on entry
    float* grad_default;   // (channels)
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

NPCR_API int32_t npcr_abi_version();
// 0 where the kernels can run: for the CUDA library, where it holds code for the current device.
NPCR_API int32_t npcr_ready();
// What a returned status means.
NPCR_API const char* npcr_message(int32_t status);
// Scratch memory in bytes that the call below needs for these sizes and threads; pointers are not read.
NPCR_API int64_t npcr_rasterise_scratch(const NpcrRasterise* task);
NPCR_API int32_t npcr_rasterise(const NpcrRasterise* task);
NPCR_API int32_t npcr_gather(const NpcrGather* task);
NPCR_API int64_t npcr_scatter_scratch(const NpcrScatter* task);
NPCR_API int32_t npcr_scatter(const NpcrScatter* task);

namespace npcr {

constexpr int64_t kMaxSide = 32767;          // a splat's rectangle is kept in 16 bits per side
constexpr int64_t kMaxPoints = 0xffffffffLL;  // depth and index share 64 bits
constexpr int64_t kMaxLayers = 65535;

inline bool valid(const NpcrRasterise& task) {
    return task.point_count >= 0 && task.point_count <= kMaxPoints && task.cameras >= 0 && task.width >= 1 &&
           task.width <= kMaxSide && task.height >= 1 && task.height <= kMaxSide && task.layers >= 1 &&
           task.layers <= kMaxLayers && (task.index_bytes == 4 || task.index_bytes == 8) &&
           (task.index_bytes == 8 || task.point_count <= 0x7fffffffLL) && task.far_depth > task.near_depth;
}

template <class Task>  // NpcrGather, NpcrScatter
inline bool valid_features(const Task& task) {
    return task.point_count >= 0 && task.channels >= 1 && task.fragments >= 0 &&
           (task.index_bytes == 4 || task.index_bytes == 8);
}

}  // namespace npcr

#endif
