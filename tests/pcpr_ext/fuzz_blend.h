// SPDX-License-Identifier: Apache-2.0
// The kernels of camera paths, over random crops, cameras and depths.

struct BlendCase {
    int limit = pick(0, 9) ? 40 : 700;  // of this size several threads have work
    int64_t width = pick(1, limit), height = pick(1, limit), left = pick(0, width - 1), top = pick(0, height - 1);
    int64_t columns = pick(1, width - left), rows = pick(1, height - top), neighbors = pick(1, 4);
    std::vector<std::vector<float>> images, surfaces;  // the frame's own, then the neighbors'
    std::vector<const void*> image_pointers, surface_pointers;
    std::vector<float> mappings, turns, shares;

    explicit BlendCase(bool wild) : turns(neighbors, 0.1f), shares(neighbors, 0.5f) {
        for (int64_t i = 0; i <= neighbors; ++i) {
            images.push_back(randoms(4 * width * height + 4, wild));
            surfaces.push_back(depths(wild));
            if (i == 0) continue;
            image_pointers.push_back(images.back().data() + 1);
            surface_pointers.push_back(surfaces.back().data());
            for (int k = 0; k < 12; ++k) {
                mappings.push_back((k == 0 || k == 5 || k == 10 ? 1.0f : 0.0f) + 0.05f * real());
                if (wild && pick(0, 9) == 0) mappings.back() = hostile();
            }
        }
    }

    std::vector<float> depths(bool wild) const {
        std::vector<float> depth(width * height);
        for (float& value : depth) {
            value = pick(0, 2) ? 2.0f + 0.01f * real() : 0.0f;
            if (wild && pick(0, 9) == 0) value = hostile();
        }
        return depth;
    }

    std::vector<float> surface(int threads) {
        std::vector<float> nearest(rows * columns), result(width * height, -1.0f);
        NpcrSurfaceDepth task{surfaces[0].data(), width, height, left, top, columns, rows, threads, nearest.data(),
                              result.data()};
        REQUIRE(npcr_surface_depth(&task) == NPCR_OK);
        return result;
    }

    std::vector<float> blend(int threads) {
        std::vector<float> blended(4 * width * height, 0.0f);
        NpcrBlend task{images[0].data() + 1, surfaces[0].data(), image_pointers.data(), surface_pointers.data(),
                       mappings.data(), turns.data(), shares.data(), neighbors, width, height, left, top, columns, rows,
                       0.02f, 130.0f, threads, blended.data(), nullptr, 0};
        const int64_t bytes = npcr_blend_scratch(&task);
        REQUIRE(bytes > 0 && npcr_blend(&task) == NPCR_SCRATCH_TOO_SMALL);
        std::vector<float> scratch(bytes / 4);
        task.scratch = scratch.data();
        task.scratch_bytes = bytes;
        REQUIRE(npcr_blend(&task) == NPCR_OK);
        return blended;
    }
};

bool same_bits(const std::vector<float>& one, const std::vector<float>& other) {
    return one.size() == other.size() && memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

void blend_round(bool wild) {
    BlendCase made(wild);
    const std::vector<float> surface = made.surface(1), blended = made.blend(1);
    REQUIRE(same_bits(surface, made.surface(3)));
    REQUIRE(same_bits(blended, made.blend(3)));
    for (int64_t y = 0; y < made.height; ++y) {
        for (int64_t x = 0; x < made.width; ++x) {
            const bool inside = x >= made.left && x < made.left + made.columns && y >= made.top && y < made.top + made.rows;
            if (inside) continue;  // beyond the crop nothing is written
            REQUIRE(surface[y * made.width + x] == -1.0f);
            for (int c = 0; c < 4; ++c) REQUIRE(blended[(c * made.height + y) * made.width + x] == 0.0f);
        }
    }
}

void blend_refused() {
    float value[4]{};
    const void* pointer = value;
    const NpcrBlend task{value, value, &pointer, &pointer, value, value, value, 1, 1, 1, 0, 0, 1, 1, 0.02f, 1.0f, 1,
                         value, value, 1 << 20};
    const auto bad = [&](auto change) {
        NpcrBlend changed = task;
        change(changed);
        return npcr_blend(&changed) == NPCR_BAD_ARGUMENT;
    };
    REQUIRE(bad([](NpcrBlend& t) { t.neighbors = 0; }));
    REQUIRE(bad([](NpcrBlend& t) { t.columns = 2; }));
    REQUIRE(bad([](NpcrBlend& t) { t.top = -1; }));
    REQUIRE(bad([](NpcrBlend& t) { t.rows = 0; }));
    REQUIRE(bad([](NpcrBlend& t) { t.width = npcr::kMaxSide + 1; }));
    REQUIRE(bad([](NpcrBlend& t) { t.depth_tolerance = 0.0f; }));
    NpcrSurfaceDepth surface{value, 1, 1, 0, 0, 1, 2, 1, value, value};
    REQUIRE(npcr_surface_depth(&surface) == NPCR_BAD_ARGUMENT);
}
