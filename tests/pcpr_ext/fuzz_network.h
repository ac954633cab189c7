// SPDX-License-Identifier: Apache-2.0
// The network's kernels with random shapes; part of fuzz.cpp. Buffers have just the size they need, so that the
// sanitizers see a step too far. Finite values are compared with plain loops, hostile ones only run.

std::vector<float> randoms(int64_t count, bool wild) {
    std::vector<float> values(count);
    for (float& value : values) value = wild && pick(0, 20) == 0 ? hostile() : real();
    return values;
}

bool close(double ours, double plain, double scale) { return fabs(ours - plain) <= 1e-4 * (scale + 1.0); }

struct FeatureMaps {
    int64_t images, height, width, channels[3], total = 0;
    std::vector<float> pixels[3];

    explicit FeatureMaps(bool wild) : images(pick(1, 3)), height(pick(1, 15)), width(pick(1, 15)) {
        for (int i = 0; i < 3; ++i) {
            channels[i] = i == 0 || pick(0, 1) ? pick(1, 21) : 0;
            if (i > 0 && channels[i - 1] == 0) channels[i] = 0;
            pixels[i] = randoms(images * height * width * channels[i], wild);
            total += channels[i];
        }
    }
    float at(int64_t image, int64_t y, int64_t x, int64_t channel) const {
        if (y < 0 || y >= height || x < 0 || x >= width) return 0;
        int source = 0;
        while (channel >= channels[source]) channel -= channels[source++];
        return pixels[source][((image * height + y) * width + x) * channels[source] + channel];
    }
    template <class Task>
    void into(Task& task) const {
        for (int i = 0; i < 3; ++i) {
            task.sources[i] = pixels[i].data();
            task.channels[i] = channels[i];
        }
        task.images = images;
        task.height = height;
        task.width = width;
    }
    int64_t count() const { return images * height * width; }
};

std::vector<float> packed(const std::vector<float>& weights, int64_t outputs, int64_t inputs, bool gated) {
    const int64_t convolutions = gated ? outputs / 2 : outputs;
    NpcrPack task{weights.data(), gated ? weights.data() + convolutions * inputs * 9 : nullptr, convolutions, inputs, 0,
                  pick(1, 3), nullptr, 0};
    std::vector<float> memory(npcr_pack_floats(&task));
    task.packed = memory.data();
    task.packed_floats = static_cast<int64_t>(memory.size());
    REQUIRE(npcr_pack(&task) == NPCR_OK);
    return memory;
}

void convolve_round(bool wild) {
    const FeatureMaps maps(wild);
    const bool gated = pick(0, 1);
    int64_t parts[3] = {pick(1, 20), 0, 0}, outputs = parts[0];
    for (int i = 1; i < 3 && !gated && pick(0, 1); ++i) outputs += parts[i] = pick(1, 20);
    const int64_t rows = gated ? 2 * outputs : outputs, pixels = maps.count();
    const std::vector<float> weights = randoms(rows * maps.total * 9, false), bias = randoms(rows, wild);
    const std::vector<float> memory = packed(weights, rows, maps.total, gated);
    std::vector<uint16_t> gates(pixels * outputs);
    std::vector<double> sums(maps.images * 2 * outputs);
    NpcrConvolve task{};
    maps.into(task);
    task.packed = memory.data();
    task.bias = bias.data();
    task.region[0] = pick(0, static_cast<int>(maps.width) - 1);
    task.region[1] = pick(0, static_cast<int>(maps.height) - 1);
    task.region[2] = pick(static_cast<int>(task.region[0]) + 1, static_cast<int>(maps.width));
    task.region[3] = pick(static_cast<int>(task.region[1]) + 1, static_cast<int>(maps.height));
    task.gated = gated;
    if (gated) {
        task.gates = gates.data();
        task.sums = sums.data();
    }
    const int unwanted = parts[1] > 0 ? pick(0, 3) : 3;  // a target that is left out, or none
    std::vector<float> results[2][3];
    for (int run = 0; run < 2; ++run) {
        for (int i = 0; i < 3; ++i) {
            results[run][i].assign(pixels * parts[i], -9.0f);
            task.outputs[i] = parts[i];
            task.targets[i] = i == unwanted || parts[i] == 0 ? nullptr : results[run][i].data();
        }
        task.threads = run == 0 ? 1 : 4;
        std::vector<char> scratch(npcr_convolve_scratch(&task));
        task.scratch = scratch.data();
        task.scratch_bytes = static_cast<int64_t>(scratch.size());
        REQUIRE(npcr_convolve(&task) == NPCR_OK);
    }
    for (int i = 0; i < 3; ++i) {
        if (parts[i] == 0) continue;
        REQUIRE(memcmp(results[0][i].data(), results[1][i].data(), results[0][i].size() * sizeof(float)) == 0);
    }
    if (wild) return;
    std::vector<double> expected_sums(sums.size()), sizes(sums.size());
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        const int64_t x = pixel % maps.width, y = pixel / maps.width % maps.height;
        const int64_t image = pixel / (maps.width * maps.height);
        const bool inside = x >= task.region[0] && x < task.region[2] && y >= task.region[1] && y < task.region[3];
        int target = 0;
        for (int64_t output = 0, channel = 0; output < outputs; ++output, ++channel) {
            while (channel == parts[target]) ++target, channel = 0;
            double values[2] = {0, 0}, size = 0;
            for (int part = 0; part < (gated ? 2 : 1); ++part) {
                const int64_t row = output + part * outputs;
                values[part] = bias[row];
                for (int64_t tap = 0; tap < 9; ++tap) {
                    for (int64_t input = 0; input < maps.total; ++input) {
                        const double term = static_cast<double>(weights[(row * maps.total + input) * 9 + tap]) *
                                            maps.at(image, y + tap / 3 - 1, x + tap % 3 - 1, input);
                        values[part] += term;
                        size += fabs(term);
                    }
                }
            }
            const double value = gated ? values[0] / (1 + exp(-values[1])) : values[0];
            const double expected = inside && target != unwanted ? value : -9.0;
            REQUIRE(close(results[0][target][pixel * parts[target] + channel], expected, size));
            if (!gated || !inside) continue;
            REQUIRE(fabs(gates[pixel * outputs + output] / 65535.0 - 1 / (1 + exp(-values[1]))) <= 1e-4 * (size + 1.0) + 1e-5);
            for (int kind = 0; kind < 2; ++kind) {
                expected_sums[(2 * image + kind) * outputs + output] += kind ? value * value : value;
                sizes[(2 * image + kind) * outputs + output] += kind ? size * size : size;
            }
        }
    }
    for (size_t i = 0; gated && i < sums.size(); ++i) REQUIRE(close(sums[i], expected_sums[i], sizes[i]));
}

void convolve_grad_round(bool wild) {
    FeatureMaps maps(wild);
    const bool gated = pick(0, 1);
    const int64_t convolutions = pick(1, 20), outputs = gated ? 2 * convolutions : convolutions;
    const std::vector<float> grad = randoms(maps.count() * outputs, wild);
    std::vector<float> result(convolutions * maps.total * 9), gate_weights(gated ? result.size() : 0);
    NpcrConvolveGrad task{};
    maps.into(task);
    std::vector<float> before[3], scale[3], shift[3];
    for (int i = 0; i < 3; ++i) {  // some sources still to be scaled and shifted, which the plain loops below see done
        if (pick(0, 1)) continue;
        scale[i] = randoms(maps.images * maps.channels[i], wild);
        shift[i] = randoms(maps.images * maps.channels[i], wild);
        before[i] = maps.pixels[i];
        task.sources[i] = before[i].data();
        task.scale[i] = scale[i].data();
        task.shift[i] = shift[i].data();
        for (size_t at = 0; at < before[i].size(); ++at) {
            const int64_t per_image = maps.height * maps.width * maps.channels[i];
            const int64_t channel = at / per_image * maps.channels[i] + at % maps.channels[i];
            const float value = before[i][at] * scale[i][channel] + shift[i][channel];
            maps.pixels[i][at] = value > 0.0f ? value : 0.0f;
        }
    }
    task.grad_output = grad.data();
    task.outputs = convolutions;
    task.threads = pick(1, 4);
    task.grad_weights = result.data();
    task.grad_gate_weights = gated ? gate_weights.data() : nullptr;
    std::vector<char> scratch(npcr_convolve_grad_scratch(&task));
    task.scratch = scratch.data();
    task.scratch_bytes = static_cast<int64_t>(scratch.size());
    REQUIRE(npcr_convolve_grad(&task) == NPCR_OK);
    if (wild) return;
    result.insert(result.end(), gate_weights.begin(), gate_weights.end());
    for (int64_t i = 0; i < static_cast<int64_t>(result.size()); ++i) {
        const int64_t tap = i % 9, input = i / 9 % maps.total, output = i / 9 / maps.total;
        double expected = 0, size = 0;
        for (int64_t pixel = 0; pixel < maps.count(); ++pixel) {
            const int64_t x = pixel % maps.width, y = pixel / maps.width % maps.height;
            const double term = static_cast<double>(grad[pixel * outputs + output]) *
                                maps.at(pixel / (maps.width * maps.height), y + tap / 3 - 1,
                                            x + tap % 3 - 1, input);
            expected += term;
            size += fabs(term);
        }
        REQUIRE(close(result[i], expected, size));
    }
}

// <grad, f(x)> = <f'(grad), x>: doubling is linear, and halving too as long as the same pixels are the largest.
void resample_round(bool wild) {
    const int64_t images = pick(1, 3), height = pick(3, 12), width = pick(3, 12), channels = pick(1, 19);
    const bool doubling = pick(0, 1);
    NpcrResample task{};
    task.images = images;
    task.height = height;
    task.width = width;
    task.channels = channels;
    task.threads = pick(1, 3);
    task.target_height = doubling ? 2 * height + pick(0, 3) : height / 2;
    task.target_width = doubling ? 2 * width + pick(0, 3) : width / 2;
    const std::vector<float> input = randoms(images * height * width * channels, wild);
    const std::vector<float> grad = randoms(images * task.target_height * task.target_width * channels, wild);
    std::vector<float> output(grad.size()), grad_input(input.size());
    task.input = input.data();
    task.output = output.data();
    task.grad_output = grad.data();
    task.grad_input = grad_input.data();
    REQUIRE((doubling ? npcr_double(&task) : npcr_halve(&task)) == NPCR_OK);
    REQUIRE((doubling ? npcr_double_grad(&task) : npcr_halve_grad(&task)) == NPCR_OK);
    if (wild) return;
    double forward = 0, backward = 0, size = 0;
    for (size_t i = 0; i < grad.size(); ++i) forward += static_cast<double>(grad[i]) * output[i];
    for (size_t i = 0; i < input.size(); ++i) {
        backward += static_cast<double>(grad_input[i]) * input[i];
        size += fabs(grad_input[i] * input[i]);
    }
    REQUIRE(close(forward, backward, size));
}

void gate_round(bool wild) {
    const int64_t images = pick(1, 3), pixels = pick(0, 3000), channels = pick(1, 19), count = images * pixels * channels;
    const std::vector<float> values = randoms(count, wild), grad = randoms(count, wild);
    std::vector<uint16_t> gates(count);
    for (uint16_t& value : gates) value = static_cast<uint16_t>(pick(0, 65535));
    const std::vector<float> scale = randoms(images * channels, wild), shift = randoms(images * channels, wild);
    std::vector<float> grad_raw(2 * count), output(count);
    std::vector<double> sums(images * 2 * channels);
    NpcrGate task{values.data(), gates.data(), grad.data(), scale.data(), shift.data(), scale.data(), shift.data(),
                  shift.data(), images, pixels, channels, pick(1, 4), grad_raw.data(), sums.data()};
    REQUIRE(npcr_gate_sums(&task) == NPCR_OK);
    REQUIRE(npcr_gate_grad(&task) == NPCR_OK);
    NpcrNormalize norm{values.data(), scale.data(), shift.data(), images, pixels, channels, pick(1, 4), output.data()};
    REQUIRE(npcr_normalize(&norm) == NPCR_OK);
    norm.values = output.data();  // in place
    REQUIRE(npcr_normalize(&norm) == NPCR_OK);
}

// Gradients in values and background against the image itself, which is linear in them.
template <class Index>
void composite_round(bool wild) {
    const int64_t points = pick(1, 40), dots = pick(1, 4), channels = pick(1, 9), layers = pick(1, 6);
    const int64_t height = pick(1, 12), width = pick(1, 12), pixels = height * width;
    std::vector<float> places = randoms(points * dots * 2, wild), table = randoms(points * (3 + channels), wild);
    for (float& place : places) place *= 6;
    for (int64_t i = 0; i < points; ++i) {
        table[i * (3 + channels)] = pick(0, 100) / 100.0f;
        table[i * (3 + channels) + 1] = 0.1f + pick(0, 100) / 50.0f;
        table[i * (3 + channels) + 2] = pick(0, 100) / 200.0f;
    }
    std::vector<Index> index(layers * pixels);
    for (Index& dot : index) dot = static_cast<Index>(pick(-1, static_cast<int>(points * dots) - 1));
    const std::vector<float> depth = randoms(layers * pixels, wild), background = randoms(channels, wild);
    const std::vector<float> grad = randoms(pixels * (channels + 1), wild);
    std::vector<float> image(pixels * (channels + 1)), mean(pixels);
    NpcrComposite task{places.data(), table.data(), index.data(), depth.data(), background.data(), points * dots, points,
                       channels, layers, height, width, sizeof(Index), pick(1, 4), image.data(), mean.data(), nullptr};
    REQUIRE(npcr_composite(&task) == NPCR_OK);
    std::vector<float> grad_places(places.size()), grad_table(table.size()), grad_background(channels);
    NpcrCompositeGrad back{places.data(), table.data(), index.data(), nullptr, background.data(), grad.data(),
                           points * dots, points, channels, layers, height, width, sizeof(Index), pick(1, 4), grad_places.data(),
                           grad_table.data(), grad_background.data(), nullptr, 0, nullptr};
    REQUIRE(npcr_composite_grad(&back) == NPCR_SCRATCH_TOO_SMALL);
    std::vector<char> scratch(npcr_composite_grad_scratch(&back));
    back.scratch = scratch.data();
    back.scratch_bytes = static_cast<int64_t>(scratch.size());
    REQUIRE(npcr_composite_grad(&back) == NPCR_OK);
    if (!wild) {  // the image is linear in values and background
        double forward = 0, backward = 0, size = 0;
        for (size_t i = 0; i < image.size(); ++i) {
            if (static_cast<int64_t>(i) % (channels + 1) < channels) forward += static_cast<double>(grad[i]) * image[i];
        }
        for (size_t i = 0; i < table.size(); ++i) {
            if (static_cast<int64_t>(i) % (3 + channels) < 3) continue;
            backward += static_cast<double>(grad_table[i]) * table[i];
            size += fabs(grad_table[i] * table[i]);
        }
        for (int64_t c = 0; c < channels; ++c) {
            backward += static_cast<double>(grad_background[c]) * background[c];
            size += fabs(grad_background[c] * background[c]);
        }
        REQUIRE(close(forward, backward, size));
    }
    index[pick(0, static_cast<int>(index.size()) - 1)] = static_cast<Index>(points * dots);
    REQUIRE(npcr_composite(&task) == NPCR_BAD_INDEX);
    REQUIRE(npcr_composite_grad(&back) == NPCR_OK);
}

void network_refused() {
    NpcrConvolve task{};
    task.images = task.height = task.width = task.region[2] = task.region[3] = 1;
    task.channels[0] = task.outputs[0] = 1;
    REQUIRE(npcr_convolve_scratch(&task) > 0);
    REQUIRE(npcr_convolve(&task) == NPCR_SCRATCH_TOO_SMALL);
    const auto bad = [&](auto change) {
        NpcrConvolve changed = task;
        change(changed);
        return npcr_convolve(&changed) == NPCR_BAD_ARGUMENT;
    };
    REQUIRE(bad([](NpcrConvolve& t) { t.channels[0] = 0; }));
    REQUIRE(bad([](NpcrConvolve& t) { t.channels[1] = -1; }));
    REQUIRE(bad([](NpcrConvolve& t) { t.outputs[0] = 0; }));
    REQUIRE(bad([](NpcrConvolve& t) { t.gated = t.outputs[1] = 1; }));  // gates are for one target
    REQUIRE(bad([](NpcrConvolve& t) { t.images = 0; }));
    REQUIRE(bad([](NpcrConvolve& t) { t.region[2] = 2; }));
    REQUIRE(bad([](NpcrConvolve& t) { t.region[1] = 1; }));
    NpcrPack pack{};
    pack.outputs = 3;
    REQUIRE(npcr_pack(&pack) == NPCR_BAD_ARGUMENT);  // no inputs
    NpcrResample resample{};
    resample.height = resample.width = 2;
    resample.images = resample.channels = resample.target_height = resample.target_width = 1;
    REQUIRE(npcr_halve(&resample) == NPCR_BAD_ARGUMENT);
    REQUIRE(npcr_double(&resample) == NPCR_BAD_ARGUMENT);
}

void network_round() {
    const bool wild = pick(0, 3) == 0;
    convolve_round(wild);
    convolve_grad_round(wild);
    resample_round(wild);
    gate_round(wild);
    composite_round<int32_t>(wild);
    composite_round<int64_t>(wild);
}
