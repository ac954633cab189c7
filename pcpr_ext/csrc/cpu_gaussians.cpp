// SPDX-License-Identifier: Apache-2.0
// Projection of Gaussians on a CPU, and the lists of the ellipses in each tile of the image. What comes out does not
// depend on the number of threads: sums are taken by blocks of a fixed size, and every sort is stable.

#include <stdint.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "gaussian.h"
#include "arguments.h"
#include "lanes.h"
#include "processor.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kBlock = 2048;  // Gaussians of a task
constexpr int kDigitBits = 12;    // of a radix sort's pass
constexpr int kDigits = 1 << kDigitBits;

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

// Calls perform(block, first, last) for each block, on several threads.
template <class Perform>
void for_blocks(int64_t count, int threads, Perform perform) {
    const int64_t blocks = blocks_of(count);
    const int tasks = static_cast<int>(std::min<int64_t>(blocks, ThreadPool::kMaxTasks));
    if (tasks == 0) return;
    ThreadPool::run(static_cast<int>(std::min<int64_t>({threads, blocks, 256})), tasks, [&](int task, int) {
        const Share share(blocks, task, tasks);
        for (int64_t block = share.first; block < share.last; ++block) {
            perform(block, block * kBlock, std::min(count, (block + 1) * kBlock));
        }
    });
}

// Eight Gaussians that follow each other in memory, of which the last may be there several times.
struct Group {
    int64_t first;
    int count;
    Group(int64_t from, int64_t last) : first(from), count(static_cast<int>(std::min<int64_t>(kLanes, last - from))) {}
    NPCR_HD Lanes8 load(const float* numbers, int stride, int k) const {
        Lanes8 result;
        for (int lane = 0; lane < kLanes; ++lane) {
            result[lane] = numbers[stride * (first + (lane < count ? lane : count - 1)) + k];
        }
        return result;
    }
    NPCR_HD Vec3<Lanes8> load3(const float* numbers) const {
        return {load(numbers, 3, 0), load(numbers, 3, 1), load(numbers, 3, 2)};
    }
    NPCR_HD void store(const Lanes8& values, int stride, int k, float* numbers) const {
        for (int lane = 0; lane < count; ++lane) numbers[stride * (first + lane) + k] = values[lane];
    }
    NPCR_HD void store3(const Vec3<Lanes8>& values, float* numbers) const {
        store(values.x, 3, 0, numbers), store(values.y, 3, 1, numbers), store(values.z, 3, 2, numbers);
    }
};

template <class Task>
NPCR_BODY Projection<Lanes8> project_group(const Task& task, const GaussianCamera& camera, const Group& group) {
    return project_gaussian<Lanes8>(camera, group.load3(task.means), group.load3(task.strands),
                                    group.load(task.widths, 1, 0), group.load(task.opacities, 1, 0),
                                    task.filter_variance);
}

NPCR_BODY void project_block(const NpcrProjectGaussians& task, const GaussianCamera& camera, int64_t first,
                             int64_t last) {
    for (int64_t i = first; i < last; i += kLanes) {
        const Group group(i, last);
        Lanes8 ellipse[kEllipse];
        write_ellipse<Lanes8>(project_group(task, camera, group), group.load(task.opacities, 1, 0), task.min_share,
                              ellipse);
        for (int k = 0; k < kEllipse; ++k) group.store(ellipse[k], kEllipse, k, task.ellipses);
    }
}

// `sum`: of the camera's gradients, or null.
NPCR_BODY void project_block_grad(const NpcrProjectGaussiansGrad& task, const GaussianCamera& camera, int64_t first,
                                  int64_t last, double* sum) {
    for (int64_t i = first; i < last; i += kLanes) {
        const Group group(i, last);
        Lanes8 grads[kEllipse - 1], of_camera[kCameraGrads];
        for (int k = 0; k < kEllipse - 1; ++k) grads[k] = group.load(task.grad_ellipses, kEllipse, k);
        for (int k = 0; sum && k < kCameraGrads; ++k) of_camera[k] = Lanes8{};
        GaussianGrad<Lanes8> grad = project_gaussian_grad<Lanes8>(
            camera, project_group(task, camera, group), group.load(task.widths, 1, 0), group.load(task.opacities, 1, 0),
            task.filter_variance, grads, sum ? of_camera : nullptr);
        const auto drawn = group.load(task.ellipses, kEllipse, kEllipse - 1) > 0;
        for (Lanes8* number : {&grad.mean.x, &grad.mean.y, &grad.mean.z, &grad.strand.x, &grad.strand.y, &grad.strand.z,
                               &grad.width, &grad.opacity}) {
            *number = drawn ? *number : Lanes8{};
        }
        group.store3(grad.mean, task.grad_means);
        group.store3(grad.strand, task.grad_strands);
        group.store(grad.width, 1, 0, task.grad_widths);
        group.store(grad.opacity, 1, 0, task.grad_opacities);
        for (int lane = 0; sum && lane < group.count; ++lane) {
            for (int k = 0; drawn[lane] && k < kCameraGrads; ++k) sum[k] += of_camera[k][lane];
        }
    }
}

NPCR_WITH_AVX2(project_block,
               (const NpcrProjectGaussians& task, const GaussianCamera& camera, int64_t first, int64_t last),
               (task, camera, first, last))
NPCR_WITH_AVX2(project_block_grad,
               (const NpcrProjectGaussiansGrad& task, const GaussianCamera& camera, int64_t first, int64_t last,
                double* sum),
               (task, camera, first, last, sum))

void project_all(const NpcrProjectGaussians& task) {
    const GaussianCamera camera = load_camera(task.cam_to_world, task.intrinsics, task.width, task.height);
    for_blocks(task.count, task.threads,
               [&](int64_t, int64_t first, int64_t last) { project_block_here(task, camera, first, last); });
}

void project_all_grad(const NpcrProjectGaussiansGrad& task) {
    const GaussianCamera camera = load_camera(task.cam_to_world, task.intrinsics, task.width, task.height);
    double* sums = static_cast<double*>(task.scratch);  // of the camera, for each block
    for_blocks(task.count, task.threads, [&](int64_t block, int64_t first, int64_t last) {
        double* sum = task.grad_camera ? sums + block * kCameraGrads : nullptr;
        if (sum) std::fill_n(sum, kCameraGrads, 0.0);
        project_block_grad_here(task, camera, first, last, sum);
    });
    for (int i = 0; task.grad_camera && i < kCameraGrads; ++i) {
        double total = 0;
        for (int64_t block = 0; block < blocks_of(task.count); ++block) total += sums[block * kCameraGrads + i];
        task.grad_camera[i] = static_cast<float>(total);
    }
}

uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// One pass of a radix sort, stable: each part of the keys counts its digits, then puts its rows behind those before it.
void sort_digit(int parts, int64_t count, int shift, const uint32_t* keys, const int32_t* order, uint32_t* to_keys,
                int32_t* to_order) {
    std::vector<int32_t> places(static_cast<size_t>(parts) * kDigits);  // (parts, digits)
    ThreadPool::run(parts, parts, [&](int part, int) {
        const Share share(count, part, parts);
        int32_t* place = places.data() + part * kDigits;
        for (int64_t i = share.first; i < share.last; ++i) ++place[keys[i] >> shift & (kDigits - 1)];
    });
    int32_t place = 0;
    for (int digit = 0; digit < kDigits; ++digit) {
        for (int part = 0; part < parts; ++part) {
            place += std::exchange(places[static_cast<size_t>(part * kDigits + digit)], place);
        }
    }
    ThreadPool::run(parts, parts, [&](int part, int) {
        const Share share(count, part, parts);
        int32_t* next = places.data() + part * kDigits;
        for (int64_t i = share.first; i < share.last; ++i) {
            const int32_t to = next[keys[i] >> shift & (kDigits - 1)]++;
            to_keys[to] = keys[i];
            to_order[to] = order[i];
        }
    });
}

// Indices by depth, of equal ones the lower first; what is not drawn comes last. `scratch`: two keys and an index each.
void sort_by_depth(const NpcrTilePairs& task, uint32_t* scratch) {
    const int64_t count = task.count;
    const int parts = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, count / 8192, 64})));
    uint32_t *keys = scratch, *other_keys = scratch + count;
    int32_t *order = task.order, *other_order = reinterpret_cast<int32_t*>(scratch + 2 * count);
    uint32_t least[64], most[64];  // of the depths, whose bits are in the order of their values
    ThreadPool::run(parts, parts, [&](int part, int) {
        const Share share(count, part, parts);
        uint32_t low = 0xffffffffu, high = 0;
        for (int64_t i = share.first; i < share.last; ++i) {
            const float* ellipse = task.ellipses + kEllipse * i;
            const bool drawn = ellipse[7] > 0;
            const uint32_t depth = bits_of(ellipse[6]);
            keys[i] = drawn ? depth : 0xffffffffu;
            order[i] = static_cast<int32_t>(i);
            low = std::min(low, drawn ? depth : low);
            high = std::max(high, drawn ? depth : high);
        }
        least[part] = low, most[part] = high;
    });
    const uint32_t first = *std::min_element(least, least + parts), last = *std::max_element(most, most + parts);
    const uint32_t range = last >= first ? last - first + 1 : 0;  // fewer digits than those of the keys themselves
    for (int64_t i = 0; i < count; ++i) keys[i] = std::min(keys[i] - first, range);
    for (int shift = 0; shift < 32 && range >> shift != 0; shift += kDigitBits) {
        sort_digit(parts, count, shift, keys, order, other_keys, other_order);
        std::swap(keys, other_keys);
        std::swap(order, other_order);
    }
    if (order != task.order) std::copy_n(order, count, task.order);
}

// The tiles of a small ellipse, at most 2 x 2, in one number: column, row, and whether there is one more of either.
constexpr uint32_t kMoreColumns = 1u << 22, kMoreRows = 1u << 23, kSmall = 1u << 24;
static_assert((kMaxSide + kTile) / kTile <= 1 << 11, "11 bits for a tile's column, and for its row");

// Returns how many tiles an ellipse reaches; sets `small` to what says which, or to 0 where they are none or too many.
uint32_t count_tiles(const float* ellipse, int64_t width, int64_t height, uint32_t* small) {
    uint32_t count = 0, first = 0, rows = 0, columns = 0;
    bool same = true;  // in all rows
    for_tile_rows(ellipse, width, height, [&](int row, int from, int to) {
        const uint32_t column = static_cast<uint32_t>(from), across = static_cast<uint32_t>(to - from + 1);
        if (rows == 0) first = column | static_cast<uint32_t>(row) << 11, columns = across;
        same = same && column == (first & 0x7ff) && across == columns;
        ++rows;
        count += across;
    });
    *small = same && count > 0 && rows <= 2 && columns <= 2
                 ? kSmall | first | (columns > 1 ? kMoreColumns : 0) | (rows > 1 ? kMoreRows : 0)
                 : 0;
    return count;
}

// Calls visit(tile) for each tile of the i-th ellipse by depth. Such ellipses lie anywhere in memory: asks for what
// count_tiles kept of those to come.
template <class Visit>
void for_tiles_of(const NpcrTilePairs& task, int64_t i, int64_t across, Visit visit) {
    constexpr int64_t ahead = 16;
    if (i + ahead < task.count) __builtin_prefetch(task.tiles + task.order[i + ahead]);
    const uint32_t small = task.tiles[task.order[i]];
    if (small == 0) {
        for_tile_rows(task.ellipses + kEllipse * task.order[i], task.width, task.height, [&](int row, int from, int to) {
            for (int64_t tile = row * across + from; tile <= row * across + to; ++tile) visit(tile);
        });
        return;
    }
    const int64_t first = (small >> 11 & 0x7ff) * across + (small & 0x7ff);
    for (int64_t row = first; row <= first + (small & kMoreRows ? across : 0); row += across) {
        visit(row);
        if (small & kMoreColumns) visit(row + 1);
    }
}

void count_pairs(const NpcrTilePairs& task) {
    uint32_t* counts = static_cast<uint32_t*>(task.scratch);  // of each ellipse's tiles
    sort_by_depth(task, counts);
    for_blocks(task.count, task.threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            counts[i] = count_tiles(task.ellipses + kEllipse * i, task.width, task.height, task.tiles + i);
        }
    });
    task.offsets[0] = 0;
    for (int64_t i = 0; i < task.count; ++i) task.offsets[i + 1] = task.offsets[i] + counts[task.order[i]];
}

int list_parts(const NpcrTilePairs& task) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, task.pairs / 65536, 64})));
}

// A stable counting sort by tile: each part of the order counts its pairs, then puts them behind those before it.
void list_pairs(const NpcrTilePairs& task) {
    const int64_t across = tiles_across(task.width), tiles = across * tiles_across(task.height);
    const int parts = list_parts(task);
    int64_t* places = static_cast<int64_t*>(task.scratch);                   // (parts, tiles)
    int32_t* tile_of = reinterpret_cast<int32_t*>(places + parts * tiles);  // (pairs), in the order of `offsets`
    ThreadPool::run(parts, parts, [&](int part, int) {
        const Share share(task.count, part, parts);
        int64_t *place = places + part * tiles, pair = task.offsets[share.first];
        std::fill_n(place, tiles, 0);
        for (int64_t i = share.first; i < share.last; ++i) {
            for_tiles_of(task, i, across, [&](int64_t tile) {
                ++place[tile];
                tile_of[pair++] = static_cast<int32_t>(tile);
            });
        }
    });
    int64_t place = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        task.starts[tile] = place;
        for (int part = 0; part < parts; ++part) place += std::exchange(places[part * tiles + tile], place);
    }
    task.starts[tiles] = place;
    ThreadPool::run(parts, parts, [&](int part, int) {
        const Share share(task.count, part, parts);
        for (int64_t i = share.first; i < share.last; ++i) {
            for (int64_t pair = task.offsets[i]; pair < task.offsets[i + 1]; ++pair) {
                const int64_t to = places[part * tiles + tile_of[pair]]++;
                task.members[to] = task.order[i];
                task.slots[to] = static_cast<int32_t>(pair);
            }
        }
    });
}

template <class Perform>
int32_t guarded(Perform perform) {
    try {
        perform();
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_project_gaussians(const NpcrProjectGaussians* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::guarded([&] { npcr::project_all(*task); });
}

int64_t npcr_project_gaussians_grad_scratch(const NpcrProjectGaussiansGrad* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::blocks_of(task->count) * npcr::kCameraGrads * static_cast<int64_t>(sizeof(double));
}

int32_t npcr_project_gaussians_grad(const NpcrProjectGaussiansGrad* task) {
    const int64_t needed = npcr_project_gaussians_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::guarded([&] { npcr::project_all_grad(*task); });
}

int64_t npcr_count_pairs_scratch(const NpcrTilePairs* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    return 3 * task->count * static_cast<int64_t>(sizeof(uint32_t));
}

int32_t npcr_count_pairs(const NpcrTilePairs* task) {
    const int64_t needed = npcr_count_pairs_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::guarded([&] { npcr::count_pairs(*task); });
}

int64_t npcr_list_pairs_scratch(const NpcrTilePairs* task) {
    if (!npcr::valid_pairs(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::list_parts(*task) * npcr::tiles_across(task->width) * npcr::tiles_across(task->height) *
               static_cast<int64_t>(sizeof(int64_t)) +
           task->pairs * static_cast<int64_t>(sizeof(int32_t));
}

int32_t npcr_list_pairs(const NpcrTilePairs* task) {
    const int64_t needed = npcr_list_pairs_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::guarded([&] { npcr::list_pairs(*task); });
}
