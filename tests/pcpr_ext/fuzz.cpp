// SPDX-License-Identifier: Apache-2.0
// Drives the CPU kernels with random shapes and hostile values; built with sanitizers by test_sanitize.py.
// Apart from what the sanitizers find: every result is the same on one thread and on several, indices are
// in range, and winners lie where a plain loop over the points would put them.
// Usage: fuzz ROUNDS
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <random>
#include <vector>

#include "arguments.h"
#include "camera.h"
#include "gaussian.h"
#include "harmonics.h"

namespace {

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "line %d, round %d: %s\n", __LINE__, round_, #condition); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

int round_ = 0;
std::mt19937 generator(1);

int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float real() { return std::normal_distribution<float>()(generator); }

float hostile() {
    static const float values[] = {NAN,    INFINITY, -INFINITY, 3.4e38f, -3.4e38f,
                                   1e-45f, -0.0f,    0.5f,      1e20f,   2147483648.0f};
    return values[pick(0, 9)];
}

struct Case {
    std::vector<float> points, poses, intrinsics;
    NpcrRasterize task{};
};

Case random_case() {
    Case made;
    const int sizes[] = {0, 1, 100, 3000, 40000};
    const int count = sizes[pick(0, 4)], cameras = pick(0, 2);
    const bool wild = pick(0, 3) == 0, on_grid = pick(0, 1) == 0;
    made.points.resize(3 * count);
    for (float& value : made.points) {
        value = on_grid ? pick(-8, 8) / 4.0f : real();
        if (wild && pick(0, 9) == 0) value = hostile();
    }
    for (int camera = 0; camera < cameras; ++camera) {
        for (int i = 0; i < 16; ++i) made.poses.push_back(i % 5 == 0 ? 1.0f : 0.0f);
        made.poses[16 * camera + 11] = -3.0f + real();
        for (int i = 0; i < 9; ++i) made.intrinsics.push_back(i % 4 == 0 ? 20.0f : 0.1f * real());
        if (wild && pick(0, 3) == 0) made.poses[16 * camera + pick(0, 15)] = hostile();
        if (wild && pick(0, 3) == 0) made.intrinsics[9 * camera + pick(0, 8)] = hostile();
    }
    NpcrRasterize& task = made.task;
    task.points = made.points.data();
    task.cam_to_world = made.poses.data();
    task.intrinsics = made.intrinsics.data();
    task.point_count = count;
    task.cameras = cameras;
    task.width = pick(0, 9) == 0 ? 32767 : pick(1, 70);
    task.height = task.width > 100 ? 1 : pick(1, 50);
    task.layers = pick(0, 9) == 0 ? pick(256, 300) : pick(1, 6);
    task.near_depth = 1.0f;
    task.far_depth = 4.0f;
    const float radii[] = {0.0f, 0.4f, 1.5f, 7.0f, 3e38f};
    task.max_size = radii[pick(0, 4)];
    if (task.max_size > 100.0f || task.width > 100) task.point_count = count < 300 ? count : 300;
    task.peel_pixels = pick(0, 1);
    task.index_bytes = pick(0, 1) ? 4 : 8;
    return made;
}

struct Result {
    std::vector<int64_t> index;
    std::vector<float> depth;
};

template <class Index>
Result run_as(NpcrRasterize task) {
    const int64_t count = task.cameras * task.layers * task.width * task.height;
    std::vector<Index> index(count, Index(-7));
    Result result{{}, std::vector<float>(count, -7.0f)};
    task.scratch_bytes = npcr_rasterize_scratch(&task);
    REQUIRE(task.scratch_bytes >= 0);
    std::vector<char> scratch(task.scratch_bytes + 1, 'x');  // an odd address, and nothing is zero
    task.scratch = scratch.data() + pick(0, 1);
    task.index = index.data();
    task.depth = result.depth.data();
    REQUIRE(npcr_rasterize(&task) == NPCR_OK);
    task.scratch_bytes -= 1;
    REQUIRE(npcr_rasterize(&task) == NPCR_SCRATCH_TOO_SMALL);
    result.index.assign(index.begin(), index.end());
    return result;
}

Result run(NpcrRasterize task, int threads) {
    task.threads = threads;
    return task.index_bytes == 4 ? run_as<int32_t>(task) : run_as<int64_t>(task);
}

// Layer by layer over all points, as docs/conventions.md defines it.
Result plain(const NpcrRasterize& task) {
    const int64_t pixels = task.width * task.height;
    Result result;
    for (int64_t camera_index = 0; camera_index < task.cameras; ++camera_index) {
        const npcr::Camera camera =
            npcr::make_camera(task.cam_to_world + 16 * camera_index, task.intrinsics + 9 * camera_index,
                              task.near_depth, task.far_depth, task.max_size, task.width, task.height);
        std::vector<char> gone(task.point_count, 0);
        std::vector<uint64_t> before(pixels, 0);
        for (int64_t layer = 0; layer < task.layers; ++layer) {
            std::vector<uint64_t> keys(pixels, ~0ull);
            for (int64_t i = 0; i < task.point_count; ++i) {
                const float* point = task.points + 3 * i;
                const npcr::Splat splat = npcr::project(camera, point[0], point[1], point[2]);
                if (!splat.visible || gone[i]) continue;
                uint32_t bits;
                memcpy(&bits, &splat.depth, 4);
                const uint64_t key = npcr::make_key(bits, static_cast<uint32_t>(i));
                for (int y = splat.y0; y <= splat.y1; ++y) {
                    for (int x = splat.x0; x <= splat.x1; ++x) {
                        const int64_t pixel = y * task.width + x;
                        if (task.peel_pixels && layer > 0 && key <= before[pixel]) continue;
                        if (key < keys[pixel]) keys[pixel] = key;
                    }
                }
            }
            for (uint64_t key : keys) {
                const uint32_t bits = key == ~0ull ? 0 : static_cast<uint32_t>(key >> 32);
                float depth;
                memcpy(&depth, &bits, 4);
                result.index.push_back(key == ~0ull ? -1 : static_cast<int64_t>(key & 0xffffffffu));
                result.depth.push_back(depth);
                if (key != ~0ull && !task.peel_pixels) gone[key & 0xffffffffu] = 1;
            }
            before = keys;
        }
    }
    return result;
}

bool same(const Result& a, const Result& b) {
    return a.index == b.index && a.depth.size() == b.depth.size() &&
           (a.depth.empty() || memcmp(a.depth.data(), b.depth.data(), 4 * a.depth.size()) == 0);
}

void rasterize_round() {
    const Case made = random_case();
    const Result alone = run(made.task, 1);
    REQUIRE(same(alone, run(made.task, pick(2, 4))));
    if (made.task.point_count * made.task.layers <= 20000) REQUIRE(same(alone, plain(made.task)));
}

template <class Index>
void features_round() {
    const int64_t points = pick(0, 300), channels = pick(1, 40), fragments = pick(0, 9000);
    std::vector<float> features(points * channels), defaults(channels), output(fragments * channels);
    for (float& value : features) value = pick(0, 50) == 0 ? hostile() : real();
    for (float& value : defaults) value = real();
    std::vector<Index> index(fragments);
    for (Index& value : index) value = points == 0 ? -1 : pick(-1, static_cast<int>(points) - 1);
    NpcrGather gather{features.data(), defaults.data(), index.data(), points, channels,
                      fragments, sizeof(Index), 3, output.data(), nullptr};
    REQUIRE(npcr_gather(&gather) == NPCR_OK);
    for (int64_t i = 0; i < fragments; ++i) {
        const float* row = index[i] < 0 ? defaults.data() : features.data() + index[i] * channels;
        REQUIRE(memcmp(row, output.data() + i * channels, 4 * channels) == 0);
    }
    std::vector<float> first, first_default;
    for (int threads : {1, 3}) {
        std::vector<float> grad(points * channels, 0.0f), grad_default(channels);
        NpcrScatter scatter{output.data(), index.data(), nullptr, points, channels,
                            fragments, sizeof(Index), threads, grad.data(), grad_default.data(),
                            nullptr, 0, nullptr};
        scatter.scratch_bytes = npcr_scatter_scratch(&scatter);
        std::vector<double> scratch(scatter.scratch_bytes / 8);
        scatter.scratch = scratch.data();
        REQUIRE(npcr_scatter(&scatter) == NPCR_OK);
        if (threads == 1) {
            first = grad;
            first_default = grad_default;
        }
        REQUIRE(grad.empty() || memcmp(grad.data(), first.data(), 4 * grad.size()) == 0);
        REQUIRE(memcmp(grad_default.data(), first_default.data(), 4 * channels) == 0);
    }
    if (fragments > 0) {
        index[fragments / 2] = static_cast<Index>(points + pick(0, 5));
        REQUIRE(npcr_gather(&gather) == NPCR_BAD_INDEX);
    }
}

// A cloud of 2^31 + 8 one-channel points that exists as address space only: its pages come when touched.
void indices_near_2_to_31() {
    const int64_t points = (1ll << 31) + 8;
    const size_t bytes = static_cast<size_t>(points) * sizeof(float);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) {
        puts("no address space for 2^31 points: left out");
        return;
    }
    float* features = static_cast<float*>(memory);
    const std::vector<int64_t> index = {points - 1, (1ll << 31) - 1, -1, 1ll << 31, 0, points - 1};
    const float defaults = 9.0f;
    for (size_t i = 0; i < index.size(); ++i) {
        if (index[i] >= 0) features[index[i]] = static_cast<float>(i);
    }
    std::vector<float> output(index.size());
    NpcrGather gather{features, &defaults, index.data(), points, 1, 6, 8, 2, output.data(), nullptr};
    REQUIRE(npcr_gather(&gather) == NPCR_OK);
    REQUIRE((output == std::vector<float>{5, 1, 9, 3, 4, 5}));
    for (int64_t i : index) {
        if (i >= 0) features[i] = 0.0f;
    }
    float grad_default = 0.0f;
    double sum = 0.0;
    NpcrScatter scatter{output.data(), index.data(), nullptr, points, 1, 6, 8, 2,
                        features, &grad_default, &sum, 8, nullptr};
    REQUIRE(npcr_scatter(&scatter) == NPCR_OK);
    REQUIRE(features[points - 1] == 10 && features[1ll << 31] == 3 && features[(1ll << 31) - 1] == 1);
    REQUIRE(grad_default == 9);
    munmap(memory, bytes);
}

void refused() {
    NpcrRasterize task{};
    task.width = task.height = task.layers = 1;
    task.far_depth = 1.0f;
    task.index_bytes = 4;
    REQUIRE(npcr_rasterize_scratch(&task) > 0);
    const auto bad = [&](auto change) {
        NpcrRasterize changed = task;
        change(changed);
        return npcr_rasterize(&changed) == NPCR_BAD_ARGUMENT;
    };
    REQUIRE(bad([](NpcrRasterize& t) { t.width = 0; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.height = npcr::kMaxSide + 1; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.layers = 0; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.layers = npcr::kMaxLayers + 1; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.point_count = -1; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.point_count = 1ll << 31; }));  // needs index_bytes 8
    REQUIRE(bad([](NpcrRasterize& t) { t.index_bytes = 2; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.near_depth = 1.0f; }));
    REQUIRE(bad([](NpcrRasterize& t) { t.near_depth = NAN; }));
    task.index_bytes = 8;
    task.point_count = npcr::kMaxPoints;
    REQUIRE(npcr_rasterize_scratch(&task) > 16 * task.point_count);
    task.point_count += 1;
    REQUIRE(npcr_rasterize_scratch(&task) == NPCR_BAD_ARGUMENT);
}

#include "fuzz_network.h"
#include "fuzz_gaussians.h"
#include "fuzz_blend.h"
#include "fuzz_field.h"

}  // namespace

int main(int, char** arguments) {
    refused();
    network_refused();
    gaussians_refused();
    blend_refused();
    color_field_refused();
    indices_near_2_to_31();
    for (round_ = 1; round_ <= atoi(arguments[1]); ++round_) {
        rasterize_round();
        features_round<int32_t>();
        features_round<int64_t>();
        network_round();
        gaussians_round(pick(0, 2) == 0);
        harmonics_round();
        blend_round(pick(0, 2) == 0);
        color_field_round(pick(0, 2) == 0);
    }
    printf("%d rounds passed\n", round_ - 1);
    return 0;
}
