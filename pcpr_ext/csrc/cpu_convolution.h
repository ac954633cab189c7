// SPDX-License-Identifier: Apache-2.0
// What the convolution and its gradient share: the caller's feature maps as patches of 6x6 pixels, transformed.
#ifndef NPCR_CPU_CONVOLUTION_H
#define NPCR_CPU_CONVOLUTION_H

#include <stdint.h>

#include <algorithm>

#include "arguments.h"
#include "winograd.h"

// Sums are fused in all that follows, and in the file that includes this: -ffp-contract=off is for the projection.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

namespace npcr {

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Tiles of a region of the image, row by row; the last ones may reach beyond it.
struct Tiles {
    int64_t x0, y0, across, down;

    Tiles(int64_t left, int64_t top, int64_t right, int64_t bottom)
        : x0(left), y0(top), across((right - left + kTile - 1) / kTile), down((bottom - top + kTile - 1) / kTile) {}
    int64_t count() const { return across * down; }
    int64_t x(int64_t tile) const { return x0 + tile % across * kTile; }
    int64_t y(int64_t tile) const { return y0 + tile / across * kTile; }
};

inline int64_t sum_of(const int64_t (&channels)[3]) { return channels[0] + channels[1] + channels[2]; }

// Rows of transformed values hold `channels` of them and slack for a whole vector past the last.
inline int64_t row_floats(int64_t channels) { return round_up(channels + kPanel - 1, 8); }

// Floats from one product's matrix to the next. Their elements are written one product after another, so strides of
// whole pages, which would all fall into one set of a cache, are avoided.
inline int64_t plane_floats(int64_t floats) { return round_up(floats, 1024) + 3 * kPanel; }

// Pixels of an image. Those outside are not read, whatever memory holds, and count as 0.
struct Area {
    int64_t left, top, right, bottom;

    bool holds(int64_t x, int64_t y, int64_t side) const {
        return x >= left && y >= top && x + side <= right && y + side <= bottom;
    }
};

// A feature map of several sources, their channels one after another.
struct Sources {
    const float* const* pixels;
    const int64_t* channels;
    int64_t height, width;
    Area area;
    const float* const* scale;  // of each source, (channels), or null: ReLU(scale pixel + shift) is meant
    const float* const* shift;
};

// `count` elements, fewer than 2 * piece (a power of two): in pieces of fixed size, for a call of memcpy takes longer.
template <int piece, class Element>
NPCR_INLINE void copy_some(const Element* from, int64_t count, Element* to) {
    if (count & piece) memcpy(to, from, piece * sizeof(Element));
    if constexpr (piece > 1) {
        const int64_t copied = count & piece;
        copy_some<piece / 2>(from + copied, count, to + copied);
    }
}

// `count` of a vector's lanes of a pixel; 0, and false, where the pixel lies outside.
template <class V>
NPCR_INLINE bool load_pixel(const float* pixels, int64_t channels, int64_t width, const Area& area, int64_t y, int64_t x,
                            int64_t channel, int64_t count, V& to) {
    to = V{};
    if (!area.holds(x, y, 1)) return false;
    constexpr int kLanes = sizeof(V) / sizeof(float);
    const float* at = pixels + (y * width + x) * channels + channel;
    if (count == kLanes) {
        load(at, to);
    } else {
        float lanes[kLanes] = {};
        copy_some<kLanes / 2>(at, count, lanes);
        load(lanes, to);
    }
    return true;
}

struct AsItIs {
    template <class V>
    NPCR_INLINE void apply(V&) const {}
};

template <class V>
struct Normed {
    V scale, shift;

    NPCR_INLINE Normed(const float* scales, const float* shifts, int64_t count) : scale(V{}), shift(V{}) {
        memcpy(&scale, scales, static_cast<size_t>(count) * sizeof(float));
        memcpy(&shift, shifts, static_cast<size_t>(count) * sizeof(float));
    }
    NPCR_INLINE void apply(V& value) const {
        value = value * scale + shift;
        value = value > 0.0f ? value : V{};
    }
};

// side x side pixels from (x, y) on, of one vector of channels: `prepare`, but for those outside, which are 0; then all
// columns through `transform`, then all rows; product p of the result goes to out + p * plane. Lanes past the last
// channel become anything.
template <class V, int side, class Prepare, class Transform>
NPCR_INLINE void transform_pixels(const float* pixels, int64_t channels, int64_t height, int64_t width,
                                  const Area& area, int64_t y, int64_t x, int64_t channel, float* out, int64_t plane,
                                  Prepare prepare, Transform transform) {
    constexpr int64_t kLanes = sizeof(V) / sizeof(float);
    const int64_t count = std::min(kLanes, channels - channel);
    // A vector that reaches past a pixel's channels reads the next pixel's; behind the last there is none.
    const int64_t last = ((y + side - 1) * width + x + side - 1) * channels + channel;
    const bool inside = area.holds(x, y, side) && last + kLanes <= height * width * channels;
    V half[kPatch][side];
    if (inside) {  // apart from the other case, so that the values stay in registers
        const float* at = pixels + (y * width + x) * channels + channel;
#pragma GCC unroll 6
        for (int column = 0; column < side; ++column) {
            V values[side];
#pragma GCC unroll 6
            for (int row = 0; row < side; ++row) {
                load(at + (row * width + column) * channels, values[row]);
                prepare.apply(values[row]);
            }
            transform.apply(values, &half[0][column], side);
        }
    } else {
        for (int column = 0; column < side; ++column) {
            V values[side];
            for (int row = 0; row < side; ++row) {
                if (load_pixel(pixels, channels, width, area, y + row, x + column, channel, count, values[row])) {
                    prepare.apply(values[row]);
                }
            }
            transform.apply(values, &half[0][column], side);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < kPatch; ++row) {
        V values[kPatch];
        transform.apply(half[row], values, 1);
#pragma GCC unroll 6
        for (int column = 0; column < kPatch; ++column) store(values[column], out + (row * kPatch + column) * plane);
    }
}

struct PatchTransform {
    template <class V>
    NPCR_INLINE void apply(const V* from, V* to, int stride) const { transform_patch(from, to, stride); }
};

struct SpreadTransform {
    template <class V>
    NPCR_INLINE void apply(const V* from, V* to, int stride) const { spread_tile(from, to, stride); }
};

// The transformed patch of the tile whose first pixel is (x, y), one row of every product's matrix.
template <int lanes>
NPCR_INLINE void transform_patches(const Sources& sources, int64_t y, int64_t x, float* row, int64_t plane) {
    typedef typename Lanes<lanes>::Float V;
    for (int source = 0; source < 3; ++source) {
        const int64_t channels = sources.channels[source];
        const float* scale = sources.scale ? sources.scale[source] : nullptr;
        // A source's last vector may write past its channels; the next source, or nobody, has that place.
        for (int64_t channel = 0; channel < channels; channel += lanes) {
            if (scale) {
                const int64_t count = std::min<int64_t>(lanes, channels - channel);
                transform_pixels<V, kPatch>(sources.pixels[source], channels, sources.height, sources.width,
                                            sources.area, y - 1, x - 1, channel, row + channel, plane,
                                            Normed<V>(scale + channel, sources.shift[source] + channel, count),
                                            PatchTransform());
            } else {
                transform_pixels<V, kPatch>(sources.pixels[source], channels, sources.height, sources.width,
                                            sources.area, y - 1, x - 1, channel, row + channel, plane, AsItIs(),
                                            PatchTransform());
            }
        }
        row += channels;
    }
}

}  // namespace npcr

#endif
