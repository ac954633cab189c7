// SPDX-License-Identifier: Apache-2.0
// The projection on a GPU, lock-free: a pixel's nearest point is the atomicMin of 64-bit keys, whose order is
// depth, then index, so that the result does not depend on the order in which threads run.
//
// Point peeling: every point is projected once, its rectangle and depth are kept, and the first layer is
// filled on the way. After each layer the winners' rectangles are marked as gone, and the next layer reads
// the rectangles that are left. What takes time is reading keys: every point one for each pixel that it covers,
// wherever that is. In a dense cloud nearly all points lie behind what every sixteenth of them shows already. So each
// layer is filled by those first; then the farthest depth of each tile of pixels fits into a block's shared memory, and
// of the other points only those that are nearer read keys. Keys get smaller only, so the picture is the same.
// Pixel peeling: one pass into a k-buffer. A key that displaces another hands the larger of the two to the
// next slot; as every slot ends with the least of all keys that reached it, the slots end up sorted.

#include <stdint.h>

#include "cuda_launch.h"
// camera.h and interface.h know nothing of CUDA's runtime.
#include "camera.h"
#include "arguments.h"

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

// Which points a launch takes, a warp's 32 at a time: all, every sixteenth 32, or the others.
enum Part { kAll, kSample, kRest };
constexpr int64_t kSampled = 16;

inline int64_t chunks_of(int64_t points, Part part) {
    const int64_t chunks = (points + kWarp - 1) / kWarp, sampled = (chunks + kSampled - 1) / kSampled;
    return part == kAll ? chunks : part == kSample ? sampled : chunks - sampled;
}

__device__ __forceinline__ int64_t chunk_at(uint32_t place, Part part) {
    constexpr uint32_t step = kSampled;
    if (part == kAll) return place;
    return part == kSample ? int64_t{place} * step : int64_t{place / (step - 1)} * step + 1 + place % (step - 1);
}

// The farthest depth in each tile of pixels, as bits, which sort as depths do; above all where a pixel is empty.
struct Bounds {
    uint32_t* depths;  // (rows, columns); null where the cloud is not dense enough
    int shift;         // a tile has 2^shift pixels a side
    int columns, rows;
};
constexpr int kBounds = 6144;         // tiles at most: 24 KiB of a block's shared memory
constexpr int64_t kDense = 64;        // points a pixel, so that the sampled ones leave few pixels empty
constexpr int64_t kPerBlock = 8192;   // points, so that reading the bounds is little beside them

inline Bounds bounds_of(int64_t width, int64_t height) {
    for (int shift = 3;; ++shift) {
        const int64_t columns = ((width - 1) >> shift) + 1, rows = ((height - 1) >> shift) + 1;
        if (columns * rows <= kBounds) return {nullptr, shift, static_cast<int>(columns), static_cast<int>(rows)};
    }
}

// Called by whole blocks; followed by a __syncthreads.
__device__ __forceinline__ void copy_bounds(const Bounds& bounds, uint32_t* to) {
    for (int i = threadIdx.x; i < bounds.columns * bounds.rows; i += kThreads) to[i] = bounds.depths[i];
}

// Whether a splat lies behind everything in its tiles; false for one that reaches beyond two tiles a side.
__device__ __forceinline__ bool is_behind(const Bounds& bounds, const uint32_t* depths, Rectangle rectangle,
                                          uint32_t depth) {
    const int left = (rectangle.x & 0xffff) >> bounds.shift, top = (rectangle.x >> 16) >> bounds.shift;
    const int right = (rectangle.y & 0xffff) >> bounds.shift, bottom = (rectangle.y >> 16) >> bounds.shift;
    if (right - left > 1 || bottom - top > 1) return false;
    const uint32_t* upper = depths + top * bounds.columns;
    const uint32_t* lower = depths + bottom * bounds.columns;
    return depth > upper[left] && depth > upper[right] && depth > lower[left] && depth > lower[right];
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

// Calls visit(i, whether there is such a point) for a part; all lanes of a warp together, as `fill` wants it.
template <class Visit>
__device__ __forceinline__ void for_each_point(int64_t count, int64_t chunks, Part part, Visit visit) {
    constexpr int warps = kThreads / kWarp;
    for (int64_t place = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / kWarp; place < chunks;
         place += static_cast<int64_t>(gridDim.x) * warps) {
        const int64_t i = chunk_at(static_cast<uint32_t>(place), part) * kWarp + threadIdx.x % kWarp;
        visit(i, i < count);
    }
}

// Projects points and fills the first layer (by_pixel: all layers). Rectangles and depths are kept for the layers to
// come unless `rectangles` is null.
template <bool by_pixel, bool bounded>
__global__ void __launch_bounds__(kThreads)
    project_points(NpcrRasterize task, int64_t camera_index, Target target, Rectangle* rectangles,
                   uint32_t* depths, int64_t chunks, Part part, Bounds bounds) {
    __shared__ Camera camera;
    __shared__ uint32_t farthest[bounded ? kBounds : 1];
    if (threadIdx.x == 0) {
        camera = make_camera(task.cam_to_world + 16 * camera_index, task.intrinsics + 9 * camera_index,
                             task.near_depth, task.far_depth, task.max_size, task.width, task.height);
    }
    if (bounded) copy_bounds(bounds, farthest);
    __syncthreads();
    for_each_point(task.point_count, chunks, part, [&](int64_t i, bool exists) {
        Rectangle rectangle = make_uint2(kGone, kGone);
        uint32_t depth = 0;
        if (exists) {
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
        if (bounded && rectangle.x != kGone && is_behind(bounds, farthest, rectangle, depth)) rectangle.x = kGone;
        fill<by_pixel>(target, rectangle, make_key(depth, static_cast<uint32_t>(i)));
    });
}

// One further layer of point peeling, from the rectangles that are left.
template <bool bounded>
__global__ void __launch_bounds__(kThreads)
    fill_layer(int64_t point_count, Target target, const Rectangle* rectangles, const uint32_t* depths,
               int64_t chunks, Part part, Bounds bounds) {
    __shared__ uint32_t farthest[bounded ? kBounds : 1];
    if (bounded) {
        copy_bounds(bounds, farthest);
        __syncthreads();
    }
    for_each_point(point_count, chunks, part, [&](int64_t i, bool exists) {
        Rectangle rectangle = exists ? rectangles[i] : make_uint2(kGone, kGone);
        const uint32_t depth = rectangle.x != kGone ? depths[i] : 0;
        if (bounded && rectangle.x != kGone && is_behind(bounds, farthest, rectangle, depth)) rectangle.x = kGone;
        fill<false>(target, rectangle, make_key(depth, static_cast<uint32_t>(i)));
    });
}

// Point peeling: a tile's bound from the keys so far, by a warp each.
__global__ void __launch_bounds__(kThreads) bound_tiles(const Key* keys, int width, int height, Bounds bounds) {
    const int lane = threadIdx.x % kWarp, side = 1 << bounds.shift;
    const int tile = static_cast<int>(blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp);
    if (tile >= bounds.columns * bounds.rows) return;
    const int left = tile % bounds.columns * side, top = tile / bounds.columns * side;
    const int columns = left + side < width ? side : width - left, rows = top + side < height ? side : height - top;
    uint32_t farthest = 0;
    for (int i = lane; i < columns * rows; i += kWarp) {
        const Key key = keys[static_cast<int64_t>(top + i / columns) * width + left + i % columns];
        const uint32_t depth = static_cast<uint32_t>(key >> 32);
        farthest = depth > farthest ? depth : farthest;
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, farthest, distance);
        farthest = other > farthest ? other : farthest;
    }
    if (lane == 0) bounds.depths[tile] = farthest;
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
    Bounds bounds;
    Rectangle* rectangles;  // null where no later layer needs them
    uint32_t* depths;
    int64_t key_bytes, bytes;

    explicit Scratch(const NpcrRasterize& task) : bounds(bounds_of(task.width, task.height)) {
        const int64_t pixels = task.width * task.height;
        const int64_t kept = task.peel_pixels || task.layers == 1 ? 0 : task.point_count;
        const bool bounded = !task.peel_pixels && task.point_count >= kDense * pixels;
        key_bytes = pixels * (task.peel_pixels ? task.layers : 1) * static_cast<int64_t>(sizeof(Key));
        const uintptr_t base = (reinterpret_cast<uintptr_t>(task.scratch) + 255) / 256 * 256;
        const uintptr_t after_keys = base + static_cast<uintptr_t>(key_bytes + 255) / 256 * 256;
        const uintptr_t after_bounds = after_keys + (bounded ? kBounds * sizeof(uint32_t) : 0);
        const uintptr_t after_rectangles = after_bounds + static_cast<uintptr_t>(kept) * sizeof(Rectangle);
        keys = reinterpret_cast<Key*>(base);
        bounds.depths = bounded ? reinterpret_cast<uint32_t*>(after_keys) : nullptr;
        rectangles = kept ? reinterpret_cast<Rectangle*>(after_bounds) : nullptr;
        depths = reinterpret_cast<uint32_t*>(after_rectangles);
        // The same for any address: 256 covers the alignment of the first part.
        const uintptr_t end = after_rectangles + static_cast<uintptr_t>(kept) * sizeof(uint32_t);
        bytes = static_cast<int64_t>(end - base) + 256;
    }
};

// Point peeling: fills a layer by a part of the points.
template <bool bounded>
int32_t fill_by(const NpcrRasterize& task, const Scratch& scratch, int64_t camera, bool is_first, Part part) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const Target target{scratch.keys, static_cast<int>(task.width), 1};
    const int64_t chunks = chunks_of(task.point_count, part);
    const unsigned blocks = blocks_for(chunks * kWarp, bounded ? kPerBlock : kThreads);
    if (is_first) {
        NPCR_LAUNCH((project_points<false, bounded>), blocks, kThreads, stream, task, camera, target,
                    scratch.rectangles, scratch.depths, chunks, part, scratch.bounds);
    } else {
        NPCR_LAUNCH((fill_layer<bounded>), blocks, kThreads, stream, task.point_count, target,
                    scratch.rectangles, scratch.depths, chunks, part, scratch.bounds);
    }
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

// Point peeling: fills a layer by a sample of a dense cloud, then by those of the others that are not behind it.
int32_t fill_within_bounds(const NpcrRasterize& task, const Scratch& scratch, int64_t camera, bool is_first) {
    int32_t status = fill_by<false>(task, scratch, camera, is_first, kSample);
    if (status != NPCR_OK) return status;
    const int64_t tiles = static_cast<int64_t>(scratch.bounds.columns) * scratch.bounds.rows;
    NPCR_LAUNCH(bound_tiles, blocks_for(tiles, kThreads / kWarp), kThreads, static_cast<cudaStream_t>(task.stream),
                scratch.keys, static_cast<int>(task.width), static_cast<int>(task.height), scratch.bounds);
    NPCR_CHECK(cudaGetLastError());
    return fill_by<true>(task, scratch, camera, is_first, kRest);
}

template <class Index>
int32_t rasterize_by_point(const NpcrRasterize& task, const Scratch& scratch, int64_t camera) {
    const int64_t pixels = task.width * task.height;
    Index* index = static_cast<Index*>(task.index) + camera * task.layers * pixels;
    float* depth = task.depth + camera * task.layers * pixels;
    for (int64_t layer = 0; layer < task.layers; ++layer) {
        const int32_t status = scratch.bounds.depths != nullptr
                                   ? fill_within_bounds(task, scratch, camera, layer == 0)
                                   : fill_by<false>(task, scratch, camera, layer == 0, kAll);
        if (status != NPCR_OK) return status;
        NPCR_LAUNCH((write_layer<Index>), blocks_for(pixels, kThreads), kThreads,
                    static_cast<cudaStream_t>(task.stream), pixels, scratch.keys, scratch.rectangles,
                    index + layer * pixels, depth + layer * pixels);
        NPCR_CHECK(cudaGetLastError());
    }
    return NPCR_OK;
}

template <class Index>
int32_t rasterize_by_pixel(const NpcrRasterize& task, const Scratch& scratch, int64_t camera) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const int64_t pixels = task.width * task.height;
    const Target target{scratch.keys, static_cast<int>(task.width), static_cast<int>(task.layers)};
    NPCR_LAUNCH((project_points<true, false>), blocks_for(task.point_count, kThreads), kThreads, stream, task,
                camera, target, nullptr, nullptr, chunks_of(task.point_count, kAll), kAll, scratch.bounds);
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
    NPCR_CHECK(cudaFuncGetAttributes(&attributes, npcr::fill_layer<false>));
    return NPCR_OK;
}

const char* npcr_message(int32_t status) {
    switch (status) {
        case NPCR_BAD_ARGUMENT: return "a size is out of range";
        case NPCR_SCRATCH_TOO_SMALL: return "the scratch memory is too small";
        default: return cudaGetErrorString(static_cast<cudaError_t>(status));
    }
}
