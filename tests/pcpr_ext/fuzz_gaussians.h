// SPDX-License-Identifier: Apache-2.0
// The Gaussians' kernels with random scenes; part of fuzz.cpp. Buffers have just the size they need, so that the
// sanitizers see a step too far. Where no number is hostile, the picture is compared with a plain loop.

template <class Task>
void into(const std::vector<float>& pose, const std::vector<float>& intrinsics, const std::vector<float>& gaussians,
          int64_t count, Task& task) {
    task.means = gaussians.data();
    task.strands = gaussians.data() + 3 * count;
    task.widths = gaussians.data() + 6 * count;
    task.opacities = gaussians.data() + 7 * count;
    task.cam_to_world = pose.data();
    task.intrinsics = intrinsics.data();
    task.count = count;
    task.filter_variance = 0.3f;
    task.min_share = 1 / 255.0f;
}

// Calls a kernel that needs scratch memory, first with a byte too few.
template <class Task>
void run_with_scratch(int64_t (*needed)(const Task*), int32_t (*kernel)(const Task*), Task& task) {
    const int64_t bytes = needed(&task);
    REQUIRE(bytes >= 0);
    std::vector<double> scratch((bytes + 7) / 8, -7.0);
    task.scratch = scratch.data();
    task.scratch_bytes = bytes - 1;
    REQUIRE(kernel(&task) == NPCR_SCRATCH_TOO_SMALL);
    task.scratch_bytes = bytes;
    REQUIRE(kernel(&task) == NPCR_OK);
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), 4 * a.size()) == 0);
}

struct GaussianScene {
    int64_t count, width, height, channels;
    std::vector<float> gaussians, pose, intrinsics, values;

    explicit GaussianScene(bool wild) : width(pick(1, 70)), height(pick(1, 50)) {
        const int counts[] = {0, 1, 30, 200};
        const bool many = pick(0, 9) == 0;  // the lists of their tiles are made in several parts
        count = many ? 140000 : counts[pick(0, 3)];
        channels = many ? pick(0, 3) : pick(0, 9) ? pick(0, 9) : npcr::kMaxChannels;
        const float sizes[] = {0.003f, 0.03f, 0.3f, 3.0f};
        const float size = sizes[many ? 0 : pick(0, 3)];
        gaussians.resize(8 * count);
        for (int64_t i = 0; i < 8 * count; ++i) {
            const int64_t row = i / count;  // of the eight numbers, one after the other
            const float value = real();
            gaussians[i] = row < 3   ? value
                           : row < 6 ? 5 * size * value
                           : row < 7 ? size * fabsf(value)
                                     : static_cast<float>(pick(1, 100)) / 100;
            if (wild && pick(0, 30) == 0) gaussians[i] = hostile();
        }
        for (int i = 0; i < 16; ++i) pose.push_back(i % 5 == 0 ? 1.0f : 0.0f);
        pose[11] = -4;
        const float side = static_cast<float>(width);
        intrinsics = {side, 0.1f * real(), side / 2, 0.1f * real(), side, static_cast<float>(height) / 2, 0, 0, 1};
        if (wild && pick(0, 5) == 0) pose[pick(0, 15)] = hostile();
        if (wild && pick(0, 5) == 0) intrinsics[pick(0, 8)] = hostile();
        values = randoms(count * channels, false);
    }
    int64_t pixels() const { return width * height; }
    int64_t tiles() const { return npcr::tiles_across(width) * npcr::tiles_across(height); }
};

std::vector<float> projected(const GaussianScene& scene, int threads) {
    std::vector<float> ellipses(8 * scene.count, -7.0f);
    NpcrProjectGaussians task{};
    into(scene.pose, scene.intrinsics, scene.gaussians, scene.count, task);
    task.width = scene.width;
    task.height = scene.height;
    task.threads = threads;
    task.ellipses = ellipses.data();
    REQUIRE(npcr_project_gaussians(&task) == NPCR_OK);
    return ellipses;
}

// Of the ellipses' numbers to those of the Gaussians, and of the camera where that is wanted.
std::vector<float> projected_back(const GaussianScene& scene, const std::vector<float>& ellipses,
                                  const std::vector<float>& grad, bool with_camera, int threads) {
    std::vector<float> result(8 * scene.count + (with_camera ? 21 : 0), -7.0f);
    NpcrProjectGaussiansGrad task{};
    into(scene.pose, scene.intrinsics, scene.gaussians, scene.count, task);
    task.width = scene.width;
    task.height = scene.height;
    task.threads = threads;
    task.ellipses = ellipses.data();
    task.grad_ellipses = grad.data();
    task.grad_means = result.data();
    task.grad_strands = result.data() + 3 * scene.count;
    task.grad_widths = result.data() + 6 * scene.count;
    task.grad_opacities = result.data() + 7 * scene.count;
    task.grad_camera = with_camera ? result.data() + 8 * scene.count : nullptr;
    run_with_scratch(npcr_project_gaussians_grad_scratch, npcr_project_gaussians_grad, task);
    return result;
}

struct TileLists {
    std::vector<int32_t> order, members, slots;
    std::vector<int64_t> offsets, starts;

    TileLists(const GaussianScene& scene, const std::vector<float>& ellipses, int threads)
        : order(scene.count, -7), offsets(scene.count + 1, -7), starts(scene.tiles() + 1, -7) {
        NpcrTilePairs task{};
        task.ellipses = ellipses.data();
        task.count = scene.count;
        task.width = scene.width;
        task.height = scene.height;
        task.threads = threads;
        std::vector<uint32_t> tiles(scene.count);
        task.tiles = tiles.data();
        task.order = order.data();
        task.offsets = offsets.data();
        task.starts = starts.data();
        run_with_scratch(npcr_count_pairs_scratch, npcr_count_pairs, task);
        members.resize(offsets.back(), -7);
        slots.resize(offsets.back(), -7);
        task.pairs = offsets.back();
        task.members = members.data();
        task.slots = slots.data();
        run_with_scratch(npcr_list_pairs_scratch, npcr_list_pairs, task);
    }
    bool operator==(const TileLists& other) const {
        return order == other.order && members == other.members && slots == other.slots && offsets == other.offsets &&
               starts == other.starts;
    }
    // Each slot once, each tile's members by depth.
    void check(const std::vector<float>& ellipses) const {
        std::vector<char> seen(slots.size(), 0);
        for (int32_t slot : slots) REQUIRE(!seen.at(slot)++);
        REQUIRE(starts.front() == 0 && starts.back() == static_cast<int64_t>(members.size()));
        for (size_t tile = 0; tile + 1 < starts.size(); ++tile) {
            for (int64_t i = starts[tile] + 1; i < starts[tile + 1]; ++i) {
                const float before = ellipses[8 * members[i - 1] + 6], depth = ellipses[8 * members[i] + 6];
                REQUIRE(before < depth || (before == depth && members[i - 1] < members[i]));
            }
        }
    }
};

struct PlainPixel {
    std::vector<double> sums;
    double passing = 1;
    bool decided_by_rounding = false;  // an ellipse ends so near to it, or so little light is left
};

PlainPixel plain_pixel(const GaussianScene& scene, const std::vector<float>& ellipses, const TileLists& lists, float x,
                       float y) {
    PlainPixel pixel{std::vector<double>(scene.channels, 0.0)};
    for (int32_t i : lists.order) {
        const float* ellipse = ellipses.data() + 8 * i;
        if (!(ellipse[7] > 0) || pixel.passing < npcr::kPassingStop) continue;
        const double dx = x - ellipse[0], dy = y - ellipse[1];
        const double a = ellipse[2] * dx + ellipse[3] * dy, b = ellipse[4] * dy;
        const double beyond = a * a + b * b - static_cast<double>(ellipse[7]) * ellipse[7];
        if (fabs(beyond) < 1e-3) pixel.decided_by_rounding = true;
        if (beyond > 0) continue;
        const double share = fmin(ellipse[5] * exp(-0.5 * (a * a + b * b)), npcr::kMaxShare);
        for (int64_t c = 0; c < scene.channels; ++c) {
            pixel.sums[c] += pixel.passing * share * scene.values[scene.channels * i + c];
        }
        pixel.passing *= 1 - share;
        if (fabs(pixel.passing / npcr::kPassingStop - 1) < 1e-2) pixel.decided_by_rounding = true;
    }
    return pixel;
}

struct Composited {
    std::vector<float> image, mean_depth, passing, grad_ellipses, grad_values;
    std::vector<int32_t> ends;
};

Composited composited(const GaussianScene& scene, const std::vector<float>& ellipses, const TileLists& lists,
                      const std::vector<float>& grad, int threads) {
    const int64_t pixels = scene.pixels();
    Composited result{std::vector<float>(pixels * (scene.channels + 1), -7.0f), std::vector<float>(pixels, -7.0f),
                      std::vector<float>(pixels, -7.0f), std::vector<float>(8 * scene.count, -7.0f),
                      std::vector<float>(scene.channels * scene.count, -7.0f), std::vector<int32_t>(pixels, -7)};
    std::vector<uint32_t> blocks(lists.members.size());
    NpcrCompositeGaussians task{ellipses.data(), scene.values.data(), lists.starts.data(), lists.members.data(),
                                scene.count, scene.channels, scene.width, scene.height, lists.offsets.back(), threads,
                                result.image.data(), result.mean_depth.data(), result.passing.data(),
                                result.ends.data(), blocks.data(), nullptr};
    REQUIRE(npcr_composite_gaussians(&task) == NPCR_OK);
    NpcrCompositeGaussiansGrad back{
        ellipses.data(), scene.values.data(), lists.order.data(), lists.offsets.data(), lists.starts.data(),
        lists.members.data(), lists.slots.data(), result.passing.data(), result.ends.data(), blocks.data(), grad.data(),
        scene.count, scene.channels, scene.width, scene.height, lists.offsets.back(), threads, result.grad_ellipses.data(),
        result.grad_values.data(), nullptr, 0, nullptr};
    run_with_scratch(npcr_composite_gaussians_grad_scratch, npcr_composite_gaussians_grad, back);
    return result;
}

// Of linear functions of the coefficients: their gradients are what takes the same numbers back.
void harmonics_round() {
    const int64_t counts[] = {0, 1, 7, 5000}, count = counts[pick(0, 3)];
    const int32_t degree = pick(0, 3), threads = pick(2, 4);
    const int64_t others = npcr::harmonics_of(degree) - 1;
    const std::vector<float> points = randoms(3 * count, pick(0, 1)), origin = randoms(3, pick(0, 1));
    const std::vector<float> constant = randoms(3 * count, false), other = randoms(3 * others * count, false);
    std::vector<float> colors(3 * count, -7.0f), several = colors, grad_constant = colors;
    std::vector<float> grad_other(3 * others * count, -7.0f);
    NpcrHarmonics task{points.data(), origin.data(), constant.data(), other.data(), count, degree, 1, colors.data(),
                       nullptr};
    REQUIRE(npcr_harmonics(&task) == NPCR_OK);
    task.threads = threads;
    task.colors = several.data();
    REQUIRE(npcr_harmonics(&task) == NPCR_OK && same(colors, several));
    const NpcrHarmonicsGrad grad{points.data(), origin.data(), colors.data(), count, degree, threads,
                                 grad_constant.data(), grad_other.data(), nullptr};
    REQUIRE(npcr_harmonics_grad(&grad) == NPCR_OK);
    for (int64_t i = 0; i < count; ++i) {
        double back = 0, there = 0, size = 0;
        for (int64_t c = 3 * i; c < 3 * i + 3; ++c) {
            there += static_cast<double>(colors[c]) * colors[c];
            back += static_cast<double>(grad_constant[c]) * constant[c];
        }
        for (int64_t k = 3 * others * i; k < 3 * others * (i + 1); ++k) {
            back += static_cast<double>(grad_other[k]) * other[k];
            size += fabs(grad_other[k] * other[k]);
        }
        REQUIRE(!std::isfinite(there) || close(back, there, size));
    }
}

void gaussians_round(bool wild) {
    const GaussianScene scene(wild);
    std::vector<float> ellipses = projected(scene, 1);
    const int threads = pick(2, 4);
    REQUIRE(same(ellipses, projected(scene, threads)));
    const std::vector<float> grad_ellipses = randoms(8 * scene.count, false);
    const bool with_camera = pick(0, 1);
    REQUIRE(same(projected_back(scene, ellipses, grad_ellipses, with_camera, 1),
                 projected_back(scene, ellipses, grad_ellipses, with_camera, threads)));
    const bool wild_ellipses = wild && pick(0, 1);  // of a caller who made them otherwise
    for (size_t i = 0; wild_ellipses && i < ellipses.size(); ++i) {
        if (pick(0, 9) == 0) ellipses[i] = hostile();
    }
    const TileLists lists(scene, ellipses, 1);
    REQUIRE(lists == TileLists(scene, ellipses, threads));
    if (!wild_ellipses) lists.check(ellipses);
    const std::vector<float> grad = randoms(scene.pixels() * (scene.channels + 1), false);
    const Composited one = composited(scene, ellipses, lists, grad, 1);
    const Composited several = composited(scene, ellipses, lists, grad, threads);
    REQUIRE(same(one.image, several.image) && same(one.mean_depth, several.mean_depth));
    REQUIRE(same(one.grad_ellipses, several.grad_ellipses) && same(one.grad_values, several.grad_values));
    if (wild) return;
    const int64_t numbers = scene.channels + 1;
    for (int64_t number = pick(0, 3); number < scene.pixels(); number += scene.count > 1000 ? 97 : 4) {
        const PlainPixel plain = plain_pixel(scene, ellipses, lists, static_cast<float>(number % scene.width),
                                             static_cast<float>(number / scene.width));
        if (plain.decided_by_rounding) continue;
        REQUIRE(close(one.image[number * numbers + scene.channels], 1 - plain.passing, 0));
        for (int64_t c = 0; c < scene.channels; ++c) REQUIRE(close(one.image[number * numbers + c], plain.sums[c], 1));
    }
    double forward = 0, backward = 0, size = 0;  // the image is linear in the values
    for (int64_t i = 0; i < scene.pixels() * numbers; ++i) {
        if (i % numbers < scene.channels) forward += static_cast<double>(grad[i]) * one.image[i];
    }
    for (size_t i = 0; i < scene.values.size(); ++i) {
        backward += static_cast<double>(one.grad_values[i]) * scene.values[i];
        size += fabs(one.grad_values[i] * scene.values[i]);
    }
    REQUIRE(close(forward, backward, size));
}

template <class Task>
bool refuses(int32_t (*kernel)(const Task*), const Task& good, void (*change)(Task&)) {
    Task task = good;
    change(task);
    return kernel(&task) == NPCR_BAD_ARGUMENT;
}

template <class Task>
void refuses_sizes(int32_t (*kernel)(const Task*)) {
    Task task{};
    task.width = task.height = 1;
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.count = -1; }));
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.count = 1ll << 31; }));
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.width = 0; }));
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.height = npcr::kMaxSide + 1; }));
}

template <class Task>
void refuses_pairs(int32_t (*kernel)(const Task*)) {
    Task task{};
    task.width = task.height = 1;
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.pairs = -1; }));
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.pairs = 1ll << 31; }));
}

template <class Task>
void refuses_channels(int32_t (*kernel)(const Task*)) {
    Task task{};
    task.width = task.height = 1;
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.channels = -1; }));
    REQUIRE(refuses<Task>(kernel, task, [](Task& t) { t.channels = npcr::kMaxChannels + 1; }));
}

void gaussians_refused() {
    NpcrHarmonics harmonics{};
    REQUIRE(refuses<NpcrHarmonics>(npcr_harmonics, harmonics, [](NpcrHarmonics& t) { t.degree = 4; }));
    REQUIRE(refuses<NpcrHarmonics>(npcr_harmonics, harmonics, [](NpcrHarmonics& t) { t.count = -1; }));
    NpcrHarmonicsGrad harmonics_grad{};
    harmonics_grad.degree = -1;
    REQUIRE(npcr_harmonics_grad(&harmonics_grad) == NPCR_BAD_ARGUMENT);
    refuses_sizes(npcr_project_gaussians);
    refuses_sizes(npcr_project_gaussians_grad);
    refuses_sizes(npcr_count_pairs);
    refuses_sizes(npcr_list_pairs);
    refuses_sizes(npcr_composite_gaussians);
    refuses_sizes(npcr_composite_gaussians_grad);
    refuses_pairs(npcr_list_pairs);
    refuses_pairs(npcr_composite_gaussians);
    refuses_pairs(npcr_composite_gaussians_grad);
    refuses_channels(npcr_composite_gaussians);
    refuses_channels(npcr_composite_gaussians_grad);
    NpcrProjectGaussiansGrad grad{};
    NpcrTilePairs pairs{};
    NpcrCompositeGaussiansGrad composite{};
    REQUIRE(npcr_project_gaussians_grad_scratch(&grad) == NPCR_BAD_ARGUMENT);  // no pixels
    REQUIRE(npcr_count_pairs_scratch(&pairs) == NPCR_BAD_ARGUMENT);
    REQUIRE(npcr_list_pairs_scratch(&pairs) == NPCR_BAD_ARGUMENT);
    REQUIRE(npcr_composite_gaussians_grad_scratch(&composite) == NPCR_BAD_ARGUMENT);
}
