// SPDX-License-Identifier: Apache-2.0
// The projection on a GPU, lock-free: a pixel's nearest point is the atomicMin of 64-bit keys, whose order is
// depth, then index, so that the result does not depend on the order in which threads run.
//
// Point peeling: every point is projected once, its rectangle and depth are kept, and the first layer is
// filled on the way. After each layer the winners' rectangles are marked as gone, and the next layer reads
// the rectangles that are left.
// Pixel peeling: one pass into a k-buffer. A key that displaces another hands the larger of the two to the
// next slot; as every slot ends with the least of all keys that reached it, the slots end up sorted.

#include <stdint.h>

#include "cuda_launch.h"
// camera.h and interface.h know nothing of CUDA's runtime.
#include "camera.h"
#include "interface.h"

namespace npcr {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kAlone = 16;  // pixels that a thread fills by itself; larger splats are filled by its warp
using Key = unsigned long long;
constexpr Key kEmpty = ~0ULL;

// x0 | y0 << 16 and x1 | y1 << 16; x0 = 65535 where the point is hidden, gone or outside.
using Rectangle = uint2;
constexpr uint32_t kGone = 0xffffffffu;

__device__ __forceinline__ uint32_t pack(int x, int y) {
    return static_cast<uint32_t>(x) | static_cast<uint32_t>(y) << 16;
}

struct Target {
    Key* keys;  // point peeling: (pixels); pixel peeling: (pixels, layers)
    int width;
    int layers;
};

template <bool by_pixel>
__device__ __forceinline__ void offer(const Target& target, int64_t pixel, Key key) {
    // Keys only get smaller, so an outdated value read here costs an atomic too many, never a wrong result.
    if (!by_pixel) {
        if (key < __ldcg(target.keys + pixel)) atomicMin(target.keys + pixel, key);
        return;
    }
    Key* slots = target.keys + pixel * target.layers;
    if (key >= __ldcg(slots + target.layers - 1)) return;
    for (int layer = 0; layer < target.layers && key != kEmpty; ++layer) {
        if (key >= __ldcg(slots + layer)) continue;
        const Key displaced = atomicMin(slots + layer, key);
        key = displaced > key ? displaced : key;
    }
}

// Called by whole warps: the lanes without a splat pass kGone.
template <bool by_pixel>
__device__ void fill(const Target& target, Rectangle rectangle, Key key) {
    const int x0 = rectangle.x & 0xffff, y0 = rectangle.x >> 16;
    const int x1 = rectangle.y & 0xffff, y1 = rectangle.y >> 16;
    const bool some = rectangle.x != kGone;
    const bool large = some && (x1 - x0 + 1) * (y1 - y0 + 1) > kAlone;
    if (some && !large) {
        for (int y = y0; y <= y1; ++y) {
            for (int x = x0; x <= x1; ++x) {
                offer<by_pixel>(target, static_cast<int64_t>(y) * target.width + x, key);
            }
        }
    }
    const int lane = threadIdx.x % kWarp;
    unsigned waiting = __ballot_sync(0xffffffffu, large);
    while (waiting != 0) {
        const int owner = __ffs(waiting) - 1;
        waiting &= waiting - 1;
        const int left = __shfl_sync(0xffffffffu, x0, owner), right = __shfl_sync(0xffffffffu, x1, owner);
        const int top = __shfl_sync(0xffffffffu, y0, owner), bottom = __shfl_sync(0xffffffffu, y1, owner);
        const Key shared = __shfl_sync(0xffffffffu, key, owner);
        const int columns = right - left + 1, area = columns * (bottom - top + 1);
        for (int i = lane; i < area; i += kWarp) {
            const int64_t y = top + i / columns;
            offer<by_pixel>(target, y * target.width + left + i % columns, shared);
        }
    }
}

// Projects every point and fills the first layer (by_pixel: all layers). Rectangles and depths are kept for
// the layers to come unless `rectangles` is null.
template <bool by_pixel>
__global__ void __launch_bounds__(kThreads)
    project_points(NpcrRasterize task, int64_t camera_index, Target target, Rectangle* rectangles,
                   uint32_t* depths) {
    __shared__ Camera camera;
    if (threadIdx.x == 0) {
        camera = make_camera(task.cam_to_world + 16 * camera_index, task.intrinsics + 9 * camera_index,
                             task.near_depth, task.far_depth, task.max_size, task.width, task.height);
    }
    __syncthreads();
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    // `start` is the same for a whole warp, as `fill` wants it.
    for (int64_t start = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x / kWarp * kWarp;
         start < task.point_count; start += step) {
        const int64_t i = start + threadIdx.x % kWarp;
        Rectangle rectangle = make_uint2(kGone, kGone);
        uint32_t depth = 0;
        if (i < task.point_count) {
            const float* point = task.points + 3 * i;
            const Splat splat = project(camera, point[0], point[1], point[2]);
            if (splat.visible) {
                rectangle = make_uint2(pack(splat.x0, splat.y0), pack(splat.x1, splat.y1));
                depth = __float_as_uint(splat.depth);
            }
            if (rectangles != nullptr) {
                rectangles[i] = rectangle;
                depths[i] = depth;
            }
        }
        fill<by_pixel>(target, rectangle, make_key(depth, static_cast<uint32_t>(i)));
    }
}

// One further layer of point peeling, from the rectangles that are left.
__global__ void __launch_bounds__(kThreads)
    fill_layer(int64_t point_count, Target target, const Rectangle* rectangles, const uint32_t* depths) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t start = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x / kWarp * kWarp;
         start < point_count; start += step) {
        const int64_t i = start + threadIdx.x % kWarp;
        const Rectangle rectangle = i < point_count ? rectangles[i] : make_uint2(kGone, kGone);
        const uint32_t depth = rectangle.x != kGone ? depths[i] : 0;
        fill<false>(target, rectangle, make_key(depth, static_cast<uint32_t>(i)));
    }
}

template <class Index>
__device__ __forceinline__ void write(Key key, Index* index, float* depth) {
    *index = key == kEmpty ? Index(-1) : static_cast<Index>(key & 0xffffffffu);
    *depth = key == kEmpty ? 0.0f : __uint_as_float(static_cast<uint32_t>(key >> 32));
}

// Point peeling: writes a layer, takes its winners out of the cloud and empties the keys for the next one.
template <class Index>
__global__ void __launch_bounds__(kThreads)
    write_layer(int64_t pixels, Key* keys, Rectangle* rectangles, Index* index, float* depth) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels; i += step) {
        const Key key = keys[i];
        write(key, index + i, depth + i);
        if (key == kEmpty) continue;
        keys[i] = kEmpty;
        // Several pixels may write the same value for the same point.
        if (rectangles != nullptr) rectangles[key & 0xffffffffu] = make_uint2(kGone, kGone);
    }
}

// Pixel peeling: writes all layers.
template <class Index>
__global__ void __launch_bounds__(kThreads)
    write_layers(int64_t pixels, int layers, const Key* keys, Index* index, float* depth) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels; i += step) {
        for (int layer = 0; layer < layers; ++layer) {
            write(keys[i * layers + layer], index + layer * pixels + i, depth + layer * pixels + i);
        }
    }
}

// The caller's scratch memory, cut up; while the size is asked for, the addresses mean nothing.
struct Scratch {
    Key* keys;
    Rectangle* rectangles;  // null where no later layer needs them
    uint32_t* depths;
    int64_t key_bytes, bytes;

    explicit Scratch(const NpcrRasterize& task) {
        const int64_t pixels = task.width * task.height;
        const int64_t kept = task.peel_pixels || task.layers == 1 ? 0 : task.point_count;
        key_bytes = pixels * (task.peel_pixels ? task.layers : 1) * static_cast<int64_t>(sizeof(Key));
        const uintptr_t base = (reinterpret_cast<uintptr_t>(task.scratch) + 255) / 256 * 256;
        const uintptr_t after_keys = base + static_cast<uintptr_t>(key_bytes + 255) / 256 * 256;
        const uintptr_t after_rectangles = after_keys + static_cast<uintptr_t>(kept) * sizeof(Rectangle);
        keys = reinterpret_cast<Key*>(base);
        rectangles = kept ? reinterpret_cast<Rectangle*>(after_keys) : nullptr;
        depths = reinterpret_cast<uint32_t*>(after_rectangles);
        // The same for any address: 256 covers the alignment of the first part.
        const uintptr_t end = after_rectangles + static_cast<uintptr_t>(kept) * sizeof(uint32_t);
        bytes = static_cast<int64_t>(end - base) + 256;
    }
};

template <class Index>
int32_t rasterize_by_point(const NpcrRasterize& task, const Scratch& scratch, int64_t camera) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const int64_t pixels = task.width * task.height;
    const Target target{scratch.keys, static_cast<int>(task.width), 1};
    const unsigned point_blocks = blocks_for(task.point_count, kThreads);
    const unsigned pixel_blocks = blocks_for(pixels, kThreads);
    Index* index = static_cast<Index*>(task.index) + camera * task.layers * pixels;
    float* depth = task.depth + camera * task.layers * pixels;
    for (int64_t layer = 0; layer < task.layers; ++layer) {
        if (layer == 0) {
            NPCR_LAUNCH((project_points<false>), point_blocks, kThreads, stream, task, camera, target,
                        scratch.rectangles, scratch.depths);
        } else {
            NPCR_LAUNCH(fill_layer, point_blocks, kThreads, stream, task.point_count, target,
                        scratch.rectangles, scratch.depths);
        }
        NPCR_CHECK(cudaGetLastError());
        NPCR_LAUNCH((write_layer<Index>), pixel_blocks, kThreads, stream, pixels, scratch.keys,
                    scratch.rectangles, index + layer * pixels, depth + layer * pixels);
        NPCR_CHECK(cudaGetLastError());
    }
    return NPCR_OK;
}

template <class Index>
int32_t rasterize_by_pixel(const NpcrRasterize& task, const Scratch& scratch, int64_t camera) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const int64_t pixels = task.width * task.height;
    const Target target{scratch.keys, static_cast<int>(task.width), static_cast<int>(task.layers)};
    NPCR_LAUNCH((project_points<true>), blocks_for(task.point_count, kThreads), kThreads, stream, task,
                camera, target, nullptr, nullptr);
    NPCR_CHECK(cudaGetLastError());
    NPCR_LAUNCH((write_layers<Index>), blocks_for(pixels, kThreads), kThreads, stream, pixels, target.layers,
                scratch.keys, static_cast<Index*>(task.index) + camera * task.layers * pixels,
                task.depth + camera * task.layers * pixels);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

template <class Index>
int32_t rasterize(const NpcrRasterize& task) {
    const Scratch scratch(task);
    for (int64_t camera = 0; camera < task.cameras; ++camera) {
        NPCR_CHECK(cudaMemsetAsync(scratch.keys, 0xff, static_cast<size_t>(scratch.key_bytes),
                                   static_cast<cudaStream_t>(task.stream)));
        const int32_t status = task.peel_pixels ? rasterize_by_pixel<Index>(task, scratch, camera)
                                                : rasterize_by_point<Index>(task, scratch, camera);
        if (status != NPCR_OK) return status;
    }
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int64_t npcr_rasterize_scratch(const NpcrRasterize* task) {
    if (!npcr::valid(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::Scratch(*task).bytes;
}

int32_t npcr_rasterize(const NpcrRasterize* task) {
    const int64_t needed = npcr_rasterize_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return task->index_bytes == 4 ? npcr::rasterize<int32_t>(*task) : npcr::rasterize<int64_t>(*task);
}

int32_t npcr_abi_version() { return NPCR_ABI_VERSION; }

int32_t npcr_ready() {
    cudaFuncAttributes attributes;
    NPCR_CHECK(cudaFuncGetAttributes(&attributes, npcr::fill_layer));
    return NPCR_OK;
}

const char* npcr_message(int32_t status) {
    switch (status) {
        case NPCR_BAD_ARGUMENT: return "a size is out of range";
        case NPCR_SCRATCH_TOO_SMALL: return "the scratch memory is too small";
        default: return cudaGetErrorString(static_cast<cudaError_t>(status));
    }
}
