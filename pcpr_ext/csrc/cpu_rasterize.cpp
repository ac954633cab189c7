// SPDX-License-Identifier: Apache-2.0
// The projection on a CPU, both peelings and all layers in one pass over the points, front to back.
//
// Let the points come in the order of (depth, index). Each pixel counts how many of its layers are filled.
//   point peeling: a point takes the lowest layer m that is unfilled at some pixel of its square, at every
//     pixel of the square where the count is m. It competes in layer m only if it won nothing before, that
//     is, if each of its pixels had the earlier layers taken by nearer points: which is what m says.
//   pixel peeling: a point takes the next layer of each of its pixels.
// A point all of whose pixels are full is hidden for good, since counts only grow. So:
//   1. project, and sort the visible points into depth buckets (all threads);
//   2. round by round, nearest buckets first: drop the hidden points and sort the rest (all threads, one
//      round ahead), then fill the layers in order (one thread, whose work alone depends on the order);
//   3. write the layers out (all threads).
// The result depends on neither the number of threads nor their timing.

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "camera.h"
#include "cpu_records.h"
#include "arguments.h"
#include "thread_pool.h"

namespace npcr {
namespace {

// More parts than threads, so that a thread which falls behind leaves its share to the others.
int parts_for(int threads) { return threads == 1 ? 1 : 4 * threads; }

// The caller's scratch memory, cut up. Count is wide enough for the number of layers.
template <class Count>
struct Scratch {
    Record* records;             // (points) by bucket, then by id; once prepared, by depth and id
    uint64_t* slots;             // (pixels, layers) keys of the winners, valid below `filled`
    std::atomic<Count>* filled;  // (pixels)
    uint32_t* places;            // (parts, buckets) where a part's next record of a bucket goes
    uint32_t* starts;            // (buckets + 1)
    uint32_t* survivors;         // (buckets) records left after the hidden ones are dropped
    int64_t bytes;

    Scratch(void* base, const NpcrRasterize& task, int threads) {
        // Addresses as integers: the size is asked for with a null base.
        const uintptr_t origin = (reinterpret_cast<uintptr_t>(base) + 63) / 64 * 64;
        uintptr_t at = origin;
        auto take = [&](int64_t count, size_t size) {
            const uintptr_t here = at;
            at += (static_cast<uintptr_t>(count) * size + 63) / 64 * 64;
            return here;
        };
        const int64_t pixels = task.width * task.height;
        records = reinterpret_cast<Record*>(take(task.point_count, sizeof(Record)));
        slots = reinterpret_cast<uint64_t*>(take(pixels * task.layers, sizeof(uint64_t)));
        filled = reinterpret_cast<std::atomic<Count>*>(take(pixels, sizeof(Count)));
        places = reinterpret_cast<uint32_t*>(take(parts_for(threads) * kBuckets, sizeof(uint32_t)));
        starts = reinterpret_cast<uint32_t*>(take(kBuckets + 1, sizeof(uint32_t)));
        survivors = reinterpret_cast<uint32_t*>(take(kBuckets, sizeof(uint32_t)));
        bytes = static_cast<int64_t>(at - origin) + 64;
    }
};

template <class Count>
class Rasterizer {
public:
    Rasterizer(const NpcrRasterize& task, int threads)
        : task_(task),
          width_(task.width),
          pixels_(task.width * task.height),
          layers_(static_cast<unsigned>(task.layers)),
          threads_(threads),
          parts_(parts_for(threads)),
          scratch_(task.scratch, task, threads),
          spares_(new Spare[threads]) {}

    int32_t run() {
        ThreadPool::run(threads_, [this](int task, int thread) { perform(task, &spares_[thread]); },
                  [this] { return advance(); });
        return out_of_memory_.load() ? NPCR_OUT_OF_MEMORY : NPCR_OK;
    }

private:
    enum class Phase { count, place, fill, write };

    // Memory for sorting one bucket, grown on demand: buckets are small unless all depths are alike.
    struct Spare {
        std::unique_ptr<Record[]> records;
        uint32_t size = 0;
        Record* reserve(uint32_t count) {
            if (count > size) {
                records.reset(new (std::nothrow) Record[count]);
                size = records ? count : 0;
            }
            return records.get();
        }
    };

    // Consecutive buckets that are prepared together.
    struct Round {
        int first = 0, last = 0;
    };

    // Ends a phase and sets up the next one; returns its number of tasks.
    int advance() {
        switch (phase_) {
            case Phase::count:
                counts_to_places();
                phase_ = Phase::place;
                return parts_;
            case Phase::place:
                round_ = Round();
                next_ = round_after(round_);
                phase_ = Phase::fill;
                return 1 + next_.last - next_.first;
            case Phase::fill:
                round_ = next_;
                next_ = round_after(next_);
                if (open_pixels_ > 0 && round_.first < round_.last) return 1 + next_.last - next_.first;
                phase_ = Phase::write;
                return parts_;
            case Phase::write:
                break;
        }
        if (++camera_index_ == task_.cameras) return 0;
        camera_ = make_camera(task_.cam_to_world + 16 * camera_index_, task_.intrinsics + 9 * camera_index_,
                              task_.near_depth, task_.far_depth, task_.max_size, task_.width, task_.height);
        buckets_ = Buckets::from_sample(camera_, task_.points, task_.point_count);
        open_pixels_ = pixels_;
        phase_ = Phase::count;
        return parts_;
    }

    void perform(int task, Spare* spare) {
        switch (phase_) {
            case Phase::count: return count_points(task);
            case Phase::place: return place_points(task);
            case Phase::fill: return task == 0 ? fill_from(round_) : prepare(next_.first + task - 1, spare);
            case Phase::write:
                return task_.index_bytes == 4 ? write_layers<int32_t>(task) : write_layers<int64_t>(task);
        }
    }

    void count_points(int part) {
        const Share pixels(pixels_, part, parts_), points(task_.point_count, part, parts_);
        for (int64_t pixel = pixels.first; pixel < pixels.last; ++pixel) set_count(pixel, 0);
        uint32_t* counts = scratch_.places + part * kBuckets;
        std::fill(counts, counts + kBuckets, 0u);
        const Buckets buckets = buckets_;
        for_each_visible(camera_, task_.points, points.first, points.last,
                         [&](const Block& block, int i, int64_t) { ++counts[buckets.of(block.depth[i])]; });
    }

    void counts_to_places() {
        uint32_t total = 0;
        for (int bucket = 0; bucket < kBuckets; ++bucket) {
            scratch_.starts[bucket] = total;
            for (int part = 0; part < parts_; ++part) {
                uint32_t& place = scratch_.places[part * kBuckets + bucket];
                const uint32_t count = place;
                place = total;
                total += count;
            }
        }
        scratch_.starts[kBuckets] = total;
    }

    // Projecting again costs less than keeping the first pass's results would.
    void place_points(int part) {
        const Share points(task_.point_count, part, parts_);
        uint32_t* places = scratch_.places + part * kBuckets;
        Record* records = scratch_.records;
        const Buckets buckets = buckets_;
        for_each_visible(camera_, task_.points, points.first, points.last,
                         [&](const Block& block, int i, int64_t id) {
                             const uint32_t depth = block.depth[i];
                             records[places[buckets.of(depth)]++] = {depth,
                                                                     static_cast<uint32_t>(id),
                                                                     static_cast<uint16_t>(block.x0[i]),
                                                                     static_cast<uint16_t>(block.y0[i]),
                                                                     static_cast<uint16_t>(block.x1[i]),
                                                                     static_cast<uint16_t>(block.y1[i])};
                         });
    }

    Round round_after(const Round& round) const {
        // Alone, nothing is prepared ahead, and the smallest round drops the most hidden points.
        const uint32_t enough = threads_ == 1 ? 1 : 8192u * static_cast<uint32_t>(threads_);
        Round next{round.last, round.last};
        while (next.last < kBuckets && scratch_.starts[next.last] - scratch_.starts[next.first] < enough) {
            ++next.last;
        }
        return next;
    }

    void prepare(int bucket, Spare* spare) {
        Record* records = scratch_.records + scratch_.starts[bucket];
        const uint32_t size = scratch_.starts[bucket + 1] - scratch_.starts[bucket];
        // The counts may be older than the layers: then a hidden point stays in, and is dropped later.
        uint32_t kept = 0;
        for (uint32_t i = 0; i < size; ++i) {
            const Record record = records[i];
            records[kept] = record;
            kept += lowest_count(record) < layers_;
        }
        scratch_.survivors[bucket] = kept;
        if (kept < 48) {
            insertion_sort(records, kept);
        } else if (Record* memory = spare->reserve(kept)) {
            radix_sort(records, kept, memory);
        } else {
            out_of_memory_.store(true);
        }
    }

    unsigned count_at(int64_t pixel) const { return scratch_.filled[pixel].load(std::memory_order_relaxed); }

    void set_count(int64_t pixel, unsigned count) {
        scratch_.filled[pixel].store(static_cast<Count>(count), std::memory_order_relaxed);
    }

    unsigned lowest_count(const Record& record) const {
        const int64_t top = record.y0 * width_, bottom = record.y1 * width_;
        if (record.x1 - record.x0 <= 2 && record.y1 - record.y0 <= 2) {
            // Up to 3x3 pixels: edges and middle are all there is, read without a branch on the shape.
            const int64_t middle = ((record.y0 + record.y1) >> 1) * width_;
            const auto lowest_of = [this](int64_t a, int64_t b, int64_t c) {
                return std::min(std::min(count_at(a), count_at(b)), count_at(c));
            };
            const int x0 = record.x0, x1 = record.x1, x = (x0 + x1) >> 1;
            return std::min(std::min(lowest_of(top + x0, top + x, top + x1),
                                     lowest_of(middle + x0, middle + x, middle + x1)),
                            lowest_of(bottom + x0, bottom + x, bottom + x1));
        }
        unsigned lowest = layers_;
        for (int64_t row = top; row <= bottom && lowest > 0; row += width_) {
            for (int x = record.x0; x <= record.x1; ++x) lowest = std::min(lowest, count_at(row + x));
        }
        return lowest;
    }

    void fill_from(const Round& round) {
        for (int bucket = round.first; bucket < round.last && open_pixels_ > 0; ++bucket) {
            const Record* records = scratch_.records + scratch_.starts[bucket];
            const uint32_t count = scratch_.survivors[bucket];
            for (uint32_t i = 0; i < count; ++i) {
                if (task_.peel_pixels) {
                    take_pixels<true>(records[i], layers_);
                } else {
                    const unsigned layer = lowest_count(records[i]);
                    if (layer < layers_) take_pixels<false>(records[i], layer);
                }
            }
        }
    }

    // By points: the pixels whose count is `layer`. By pixels: those whose count is below `layer`.
    template <bool by_pixel>
    void take_pixels(const Record& record, unsigned layer) {
        const uint64_t key = make_key(record.depth, record.id);
        for (int64_t row = record.y0 * width_; row <= record.y1 * width_; row += width_) {
            for (int x = record.x0; x <= record.x1; ++x) {
                const unsigned count = count_at(row + x);
                if (by_pixel ? count >= layer : count != layer) continue;
                scratch_.slots[(row + x) * layers_ + count] = key;
                set_count(row + x, count + 1);
                open_pixels_ -= count + 1 == layers_;
            }
        }
    }

    template <class Index>
    void write_layers(int part) {
        Index* index = static_cast<Index*>(task_.index) + camera_index_ * layers_ * pixels_;
        float* depth = task_.depth + camera_index_ * layers_ * pixels_;
        const Share pixels(pixels_, part, parts_);
        for (int64_t pixel = pixels.first; pixel < pixels.last; ++pixel) {
            const unsigned count = count_at(pixel);
            const uint64_t* keys = scratch_.slots + pixel * layers_;
            for (unsigned layer = 0; layer < layers_; ++layer) {
                const int64_t at = layer * pixels_ + pixel;
                const bool some = layer < count;
                const uint32_t bits = some ? static_cast<uint32_t>(keys[layer] >> 32) : 0u;
                index[at] = some ? static_cast<Index>(keys[layer] & 0xffffffffu) : Index(-1);
                memcpy(depth + at, &bits, sizeof bits);
            }
        }
    }

    const NpcrRasterize& task_;
    const int64_t width_, pixels_;
    const unsigned layers_;
    const int threads_, parts_;
    const Scratch<Count> scratch_;
    const std::unique_ptr<Spare[]> spares_;
    Phase phase_ = Phase::write;
    int64_t camera_index_ = -1;
    Camera camera_;
    Buckets buckets_;
    Round round_, next_;       // being filled, being prepared
    int64_t open_pixels_ = 0;  // pixels with a layer left to fill
    std::atomic<bool> out_of_memory_{false};
};

// A thread is worth starting for some ten thousand points or pixels.
int thread_count(const NpcrRasterize& task) {
    const int64_t useful = 1 + (task.point_count + task.width * task.height * task.layers) / 16384;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, useful, 256})));
}

}  // namespace
}  // namespace npcr

int64_t npcr_rasterize_scratch(const NpcrRasterize* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    const int threads = thread_count(*task);
    return task->layers <= 255 ? Scratch<uint8_t>(nullptr, *task, threads).bytes
                               : Scratch<uint16_t>(nullptr, *task, threads).bytes;
}

int32_t npcr_rasterize(const NpcrRasterize* task) {
    using namespace npcr;
    const int64_t needed = npcr_rasterize_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    const int threads = thread_count(*task);
    try {
        return task->layers <= 255 ? Rasterizer<uint8_t>(*task, threads).run()
                                   : Rasterizer<uint16_t>(*task, threads).run();
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
}

int32_t npcr_abi_version() { return NPCR_ABI_VERSION; }

int32_t npcr_ready() { return NPCR_OK; }

const char* npcr_message(int32_t status) {
    switch (status) {
        case NPCR_OK: return "done";
        case NPCR_BAD_ARGUMENT: return "a size is out of range";
        case NPCR_SCRATCH_TOO_SMALL: return "the scratch memory is too small";
        case NPCR_OUT_OF_MEMORY: return "out of memory";
        case NPCR_BAD_INDEX: return "an index is not below the number of points";
        default: return "unknown status";
    }
}
