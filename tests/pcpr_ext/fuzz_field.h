// SPDX-License-Identifier: Apache-2.0
// Rounds of colors that splats share; part of fuzz.cpp.

// Of linear functions of the nodes' values: their gradients are what takes the same numbers back.
void color_field_round(bool wild) {
    const int64_t counts[] = {0, 1, 7, 5000}, count = counts[pick(0, 3)];
    const int32_t nodes = pick(1, 6);
    const int64_t size = 18LL * nodes * nodes * nodes;
    const std::vector<float> places = randoms(3 * count, wild), strands = randoms(3 * count, wild);
    std::vector<float> box = randoms(6, false), values = randoms(size, false), back(size, -7.0f), on_several(size, -7.0f);
    for (int axis = 0; axis < 3; ++axis) box[3 + axis] = box[axis] + 0.5f * static_cast<float>(pick(0, 2));
    std::vector<float> colors(3 * count, -7.0f), several = colors;
    NpcrColorField task{places.data(), strands.data(), box.data(), count, nodes, 1, values.data(), colors.data(), nullptr, 0};
    REQUIRE(npcr_color_field(&task) == NPCR_OK);
    task.threads = pick(2, 4);
    task.colors = several.data();
    REQUIRE(npcr_color_field(&task) == NPCR_OK && same(colors, several));
    double there = 0, again = 0, scale = 0;
    std::vector<float> grad = colors;
    for (float& value : grad) {
        if (!(std::fabs(value) < 1e3f)) value = 0;
    }
    for (size_t i = 0; i < grad.size(); ++i) there += static_cast<double>(grad[i]) * grad[i];
    task.colors = grad.data();
    for (std::vector<float>* result : {&back, &on_several}) {
        task.values = result->data();
        run_with_scratch(npcr_color_field_grad_scratch, npcr_color_field_grad, task);
        task.threads = 1;
    }
    REQUIRE(same(back, on_several));
    if (wild) return;  // large numbers cancel
    for (int64_t k = 0; k < size; ++k) {
        again += static_cast<double>(back[k]) * values[k];
        scale += std::fabs(static_cast<double>(back[k]) * values[k]);
    }
    REQUIRE(close(again, there, scale));
}

void color_field_refused() {
    float value[18]{};
    NpcrColorField task{value, value, value, 1, 1, 1, value, value, nullptr, 0};
    REQUIRE(npcr_color_field_grad(&task) == NPCR_SCRATCH_TOO_SMALL);
    for (const int32_t nodes : {0, npcr::kMaxNodes + 1}) {
        task.nodes = nodes;
        REQUIRE(npcr_color_field(&task) == NPCR_BAD_ARGUMENT && npcr_color_field_grad(&task) == NPCR_BAD_ARGUMENT);
        REQUIRE(npcr_color_field_grad_scratch(&task) == NPCR_BAD_ARGUMENT);
    }
    task.nodes = 1;
    task.count = -1;
    REQUIRE(npcr_color_field(&task) == NPCR_BAD_ARGUMENT);
}
