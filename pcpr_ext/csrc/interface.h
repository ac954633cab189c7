// SPDX-License-Identifier: Apache-2.0
// The C interface of both native libraries. It knows nothing of torch: raw pointers, sizes, and for the
// CUDA library a stream. The caller allocates everything, scratch memory too. The CPU library takes host
// pointers and ignores `stream`; the CUDA library takes device pointers, ignores `threads`, queues its
// work on `stream` and never waits for it. pcpr_ext/structures.py mirrors the structures; whoever changes
// one raises NPCR_ABI_VERSION here and ABI_VERSION in pcpr_ext/__init__.py (tests/pcpr_ext/test_interface.py compares).
#ifndef NPCR_INTERFACE_H
#define NPCR_INTERFACE_H

#include <stdint.h>

#define NPCR_ABI_VERSION 11
#define NPCR_API extern "C" __attribute__((visibility("default")))

// Returned where it is no CUDA error (those are positive).
enum NpcrStatus {
    NPCR_OK = 0,
    NPCR_BAD_ARGUMENT = -1,
    NPCR_SCRATCH_TOO_SMALL = -2,
    NPCR_OUT_OF_MEMORY = -3,
    NPCR_BAD_INDEX = -4,  // CPU only; on a GPU such an index counts as empty, since nothing waits to see it
};

struct NpcrRasterize {
    const float* points;        // (point_count, 3)
    const float* cam_to_world;  // (cameras, 4, 4)
    const float* intrinsics;    // (cameras, 3, 3)
    int64_t point_count, cameras, width, height, layers;
    float near_depth, far_depth, max_size;
    int32_t peel_pixels;  // 0: layers by points, 1: layers by pixels
    int32_t index_bytes;  // 4: int32 indices, 8: int64
    int32_t threads;
    void* index;   // (cameras, layers, height, width), -1 where empty
    float* depth;  // (cameras, layers, height, width), 0 where empty
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

struct NpcrGather {
    const float* features;         // (point_count, channels)
    const float* default_feature;  // (channels)
    const void* index;             // (fragments), below point_count; a negative one takes default_feature
    int64_t point_count, channels, fragments;
    int32_t index_bytes, threads;
    float* output;  // (fragments, channels)
    void* stream;
};

struct NpcrScatter {
    const float* grad_output;  // (fragments, channels)
    const void* index;         // (fragments); CUDA: sorted in ascending order
    const int64_t* order;      // (fragments) CUDA: row of grad_output that belongs to index[i]; CPU: unused
    int64_t point_count, channels, fragments;
    int32_t index_bytes, threads;
    float* grad_features;  // (point_count, channels), zero on entry
    float* grad_default;   // (channels)
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

// What follows is the network's, for the CPU alone, but for npcr_composite at the end. Feature maps are (images, height,
// width, channels).

// Weights (outputs, inputs, 3, 3) in the order that npcr_convolve reads them, transformed.
struct NpcrPack {
    const float* weights;       // (outputs, inputs, 3, 3)
    const float* gate_weights;  // as many, or null
    int64_t outputs, inputs;
    int32_t transposed;  // for the gradient of the input, from that of the outputs, then the gates
    int32_t threads;
    float* packed;
    int64_t packed_floats;  // at least npcr_pack_floats
};

// 3x3 convolution, padding 1. Gated: y = conv * sigmoid(gate), then ReLU(scale y + shift) where scale is given.
struct NpcrConvolve {
    const float* sources[3];  // (images, height, width, channels[i]) each, as if concatenated along the channels
    int64_t channels[3];      // 0 where there is no such source
    const float* packed;
    const float* bias;   // of all convolutions, then all gates; may be null where not gated
    const float* scale;  // (outputs[0]) each, gated only; or null
    const float* shift;
    int64_t images, height, width;
    int64_t outputs[3];  // channels of each target; only one where gated, 0 where there is no such target
    int64_t region[4];   // left, top, right, bottom: only these pixels are computed and written
    int32_t gated;
    int32_t threads;
    float* targets[3];  // (images, height, width, outputs[i]) each, the result's channels; null where not wanted
    uint16_t* gates;    // (images, height, width, outputs[0]), gated only: 65535 sigmoid(gate), rounded; or null
    double* sums;       // (images, 2, outputs[0]), gated only: sums of y and of its squares over the region; or null
    void* scratch;
    int64_t scratch_bytes;
};

struct NpcrConvolveGrad {
    const float* sources[3];  // (images, height, width, channels[i])
    const float* scale[3];    // (images, channels[i]) each, or null; else ReLU(scale source + shift) was convolved
    const float* shift[3];
    int64_t channels[3];
    const float* grad_output;  // (images, height, width, outputs), or 2 outputs, gates last
    int64_t images, height, width;
    int64_t outputs;
    int32_t threads;
    float* grad_weights;       // (outputs, inputs, 3, 3)
    float* grad_gate_weights;  // as many, or null where there are none
    void* scratch;
    int64_t scratch_bytes;
};

// The gradient of z = ReLU(scale y + shift), y = conv * g, g = sigmoid(gate), from y and g alone: conv's gradient is
// dy g, the gate's dy y (1 - g). With du = grad where z > 0, else 0:
// npcr_gate_sums gives the sums of du and of du y over each image's pixels, npcr_gate_grad the gradient of conv and
// gate for dy = of_grad du + of_value y + constant, and the sums of that.
struct NpcrGate {
    const float* values;    // y, (images, pixels, channels)
    const uint16_t* gates;  // g, likewise, as npcr_convolve gives them; npcr_gate_grad only
    const float* grad;      // likewise
    const float* scale;     // (images, channels) each
    const float* shift;
    const float* of_grad;  // npcr_gate_grad only, these three
    const float* of_value;
    const float* constant;
    int64_t images, pixels, channels;
    int32_t threads;
    float* grad_raw;  // (images, pixels, 2 channels); npcr_gate_grad only
    double* sums;     // (images, 2 channels)
};

// output = ReLU(scale values + shift); both may be the same.
struct NpcrNormalize {
    const float* values;  // (images, pixels, channels)
    const float* scale;   // (images, channels) each
    const float* shift;
    int64_t images, pixels, channels;
    int32_t threads;
    float* output;  // (images, pixels, channels)
};

// Halve: max-pool 2 at stride 1, then [1 2 1]² / 16 at stride 2 with reflected borders: (height, width) to
// (height / 2, width / 2), rounded down. Double: bilinear with aligned corners to twice the size, zeros around
// it up to (target_height, target_width), the smaller half first. Their gradients read `grad_output` (and halving's
// also `input`) and fill `grad_input`.
struct NpcrResample {
    const float* input;  // (images, height, width, channels)
    int64_t images, height, width, channels;
    int64_t target_height, target_width;
    int32_t threads;
    float* output;             // (images, target_height, target_width, channels); npcr_halve, npcr_double
    const float* grad_output;  // likewise; npcr_halve_grad, npcr_double_grad
    float* grad_input;         // (images, height, width, channels)
};

// Soft splats, composited front to back (npcr.ops.compositing); lengths in pixels. Of dot d the point is
// d / (dot_count / point_count).
struct NpcrComposite {
    const float* dots;        // (dot_count, 2) x and y, pixels
    const float* points;      // (point_count, 3 + channels): opacity, sharpness 1 / (2 s²), fade 1 / reach² and values
    const void* index;        // (layers, height, width) dots, nearest first; negative where empty
    const float* depth;       // (layers, height, width)
    const float* background;  // (channels)
    int64_t dot_count, point_count, channels, layers, height, width;
    int32_t index_bytes;
    int32_t threads;
    float* image;       // (height, width, channels + 1): values, then what is covered
    float* mean_depth;  // (height, width)
    void* stream;
};

struct NpcrCompositeGrad {
    const float* dots;
    const float* points;
    const void* index;  // as npcr_composite took it
    const int64_t* order;  // (layers * height * width) CUDA: fragments sorted by point, empty ones first; CPU: unused
    const float* background;
    const float* grad_image;  // (height, width, channels + 1)
    int64_t dot_count, point_count, channels, layers, height, width;
    int32_t index_bytes;
    int32_t threads;
    float* grad_dots;        // (dot_count, 2), zero on entry
    float* grad_points;      // (point_count, 3 + channels), zero on entry; fade has no gradient
    float* grad_background;  // (channels)
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

// Gaussians stretched along strands (gaussian.h, npcr.ops.gaussians), projected to ellipses of 8 numbers.
struct NpcrProjectGaussians {
    const float* means;         // (count, 3) world
    const float* strands;       // (count, 3) world, half of each
    const float* widths;        // (count) standard deviation across the strand, world
    const float* opacities;     // (count) 0 to 1
    const float* cam_to_world;  // (4, 4)
    const float* intrinsics;    // (3, 3)
    int64_t count, width, height;
    float filter_variance;  // of the image's low-pass filter, square pixels
    float min_share;        // of a pixel, below which an ellipse is not drawn
    int32_t threads;
    float* ellipses;  // (count, 8); zeros where nothing is drawn
    void* stream;
};

struct NpcrProjectGaussiansGrad {
    const float* means;
    const float* strands;
    const float* widths;
    const float* opacities;
    const float* cam_to_world;
    const float* intrinsics;
    const float* ellipses;       // (count, 8), as npcr_project_gaussians gave them
    const float* grad_ellipses;  // (count, 8); the radius has no gradient
    int64_t count, width, height;
    float filter_variance;
    float min_share;
    int32_t threads;
    float* grad_means;      // (count, 3)
    float* grad_strands;    // (count, 3)
    float* grad_widths;     // (count)
    float* grad_opacities;  // (count)
    float* grad_camera;     // (21) cam_to_world's upper three rows, then the intrinsics; or null
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

// Which ellipses lie in which tile of 16 x 16 pixels, near ones first. A pair is a tile and an ellipse that reaches it.
// npcr_count_pairs fills `order` and `offsets`, whose last entry tells the caller how many pairs npcr_list_pairs fills.
// Scratch memory on a GPU: 12 bytes an ellipse to count and 16 bytes a pair to list, and what CUB takes for a sort in place.
struct NpcrTilePairs {
    const float* ellipses;  // (count, 8)
    int64_t count, width, height, pairs;
    int32_t threads;
    int32_t* order;    // (count) ellipses by depth, of two at one depth the one with the lower index first
    int64_t* offsets;  // (count + 1) where the pairs of the i-th in this order begin, by tiles
    int64_t* starts;   // (tiles + 1) where the pairs of each tile begin; tiles row by row
    int32_t* members;  // (pairs) the ellipse of each pair, by tile, then by depth
    int32_t* slots;    // (pairs) the pair's number in the order of `offsets`
    uint32_t* tiles;   // (count) what npcr_count_pairs leaves of each ellipse for npcr_list_pairs; null on a GPU
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

// Ellipses composited front to back.
struct NpcrCompositeGaussians {
    const float* ellipses;  // (count, 8)
    const float* values;    // (count, channels)
    const int64_t* starts;  // as of NpcrTilePairs
    const int32_t* members;
    int64_t count, channels, width, height, pairs;
    int32_t threads;
    float* image;       // (height, width, channels + 1): premultiplied values, then what is covered
    float* mean_depth;  // (height, width)
    float* passing;     // (height, width) what is not covered
    int32_t* ends;      // (height, width) past the last of its tile's pairs that the pixel shows
    uint32_t* blocks;   // (pairs) the parts of its tile that a pair may cover; null on a GPU
    void* stream;
};

// Scratch memory: 6 + channels floats a pair; on a GPU 6 more for each further 32 channels.
struct NpcrCompositeGaussiansGrad {
    const float* ellipses;
    const float* values;
    const int32_t* order;
    const int64_t* offsets;
    const int64_t* starts;
    const int32_t* members;
    const int32_t* slots;
    const float* passing;
    const int32_t* ends;
    const uint32_t* blocks;
    const float* grad_image;  // (height, width, channels + 1)
    int64_t count, channels, width, height, pairs;
    int32_t threads;
    float* grad_ellipses;  // (count, 8)
    float* grad_values;    // (count, channels)
    void* scratch;
    int64_t scratch_bytes;
    void* stream;
};

// Colors by view direction: spherical harmonics of degree 0 to 3 in the directions from `origin` to the points.
struct NpcrHarmonics {
    const float* points;    // (count, 3) world
    const float* origin;    // (3) world
    const float* constant;  // (count, 3) coefficients
    const float* others;    // (count, (degree + 1)² - 1, 3) coefficients
    int64_t count;
    int32_t degree, threads;
    float* colors;  // (count, 3)
    void* stream;
};

struct NpcrHarmonicsGrad {
    const float* points;
    const float* origin;
    const float* grad_colors;  // (count, 3)
    int64_t count;
    int32_t degree, threads;
    float* grad_constant;  // (count, 3)
    float* grad_others;    // (count, (degree + 1)² - 1, 3)
    void* stream;
};

// The surface that the nearest points of a frame make up (npcr/temporal/reprojection.py). CPU only, as NpcrBlend.
struct NpcrSurfaceDepth {
    const float* depth;  // (height, width), 0 where empty
    int64_t width, height;
    int64_t left, top, columns, rows;  // the crop that is filled, and beyond which nothing is seen
    int32_t threads;
    float* nearest;  // (rows, columns) scratch memory
    float* surface;  // (height, width)
};

// A frame whose detail is averaged over its neighbors on a camera path (npcr/temporal/blending.py). Images are
// (height, width, 4) float32, premultiplied.
struct NpcrBlend {
    const float* image;
    const float* surface;         // (height, width), 0 where empty
    const void* images;           // pointers to those of the neighbors
    const void* surfaces;         // likewise
    const float* mappings;        // (neighbors, 3, 4): (u z', v z', z') of (x z, y z, z, 1)
    const float* turns;           // (neighbors) squares of the cameras' angles, 1 at a confidence of 1/e
    const float* shares;          // (neighbors)
    int64_t neighbors, width, height;
    int64_t left, top, columns, rows;  // the crop that is blended
    float depth_tolerance;        // above 0
    float color_factor;           // of the squared distance of colors, in the exponent of the confidence
    int32_t threads;
    float* blended;  // (4, height, width), the frame itself; what is blended is added to it
    void* scratch;
    int64_t scratch_bytes;
};

// Colors that splats share, linear between the nodes of a grid. CPU only, as NpcrBlend. The gradient has that of `colors`,
// and writes that of `values`.
struct NpcrColorField {
    const float* places;   // (count, 3) world coordinates
    const float* strands;  // (count, 3) directions, of a length of 0 to 1
    const float* box;      // (2, 3) lowest and highest corner of the grid
    int64_t count;
    int32_t nodes, threads;  // nodes along each axis
    float* values;         // (nodes³, 6, 3), x fastest: colors for the functions of a strand's direction
    float* colors;         // (count, 3)
    void* scratch;
    int64_t scratch_bytes;
};

NPCR_API int32_t npcr_abi_version();
// 0 where the kernels can run: for the CUDA library, where it holds code for the current device.
NPCR_API int32_t npcr_ready();
// What a returned status means.
NPCR_API const char* npcr_message(int32_t status);
// Scratch memory in bytes that the call below needs for these sizes and threads; pointers are not read.
NPCR_API int64_t npcr_rasterize_scratch(const NpcrRasterize* task);
NPCR_API int32_t npcr_rasterize(const NpcrRasterize* task);
NPCR_API int32_t npcr_gather(const NpcrGather* task);
NPCR_API int64_t npcr_scatter_scratch(const NpcrScatter* task);
NPCR_API int32_t npcr_scatter(const NpcrScatter* task);
NPCR_API int64_t npcr_pack_floats(const NpcrPack* task);
NPCR_API int32_t npcr_pack(const NpcrPack* task);
NPCR_API int64_t npcr_convolve_scratch(const NpcrConvolve* task);
NPCR_API int32_t npcr_convolve(const NpcrConvolve* task);
NPCR_API int64_t npcr_convolve_grad_scratch(const NpcrConvolveGrad* task);
NPCR_API int32_t npcr_convolve_grad(const NpcrConvolveGrad* task);
NPCR_API int32_t npcr_gate_sums(const NpcrGate* task);
NPCR_API int32_t npcr_gate_grad(const NpcrGate* task);
NPCR_API int32_t npcr_normalize(const NpcrNormalize* task);
NPCR_API int32_t npcr_halve(const NpcrResample* task);
NPCR_API int32_t npcr_halve_grad(const NpcrResample* task);
NPCR_API int32_t npcr_double(const NpcrResample* task);
NPCR_API int32_t npcr_double_grad(const NpcrResample* task);
NPCR_API int32_t npcr_surface_depth(const NpcrSurfaceDepth* task);
NPCR_API int64_t npcr_blend_scratch(const NpcrBlend* task);
NPCR_API int32_t npcr_blend(const NpcrBlend* task);
NPCR_API int32_t npcr_color_field(const NpcrColorField* task);
NPCR_API int64_t npcr_color_field_grad_scratch(const NpcrColorField* task);
NPCR_API int32_t npcr_color_field_grad(const NpcrColorField* task);

NPCR_API int32_t npcr_composite(const NpcrComposite* task);
NPCR_API int64_t npcr_composite_grad_scratch(const NpcrCompositeGrad* task);
NPCR_API int32_t npcr_composite_grad(const NpcrCompositeGrad* task);

NPCR_API int32_t npcr_project_gaussians(const NpcrProjectGaussians* task);
NPCR_API int64_t npcr_project_gaussians_grad_scratch(const NpcrProjectGaussiansGrad* task);
NPCR_API int32_t npcr_project_gaussians_grad(const NpcrProjectGaussiansGrad* task);
NPCR_API int64_t npcr_count_pairs_scratch(const NpcrTilePairs* task);
NPCR_API int32_t npcr_count_pairs(const NpcrTilePairs* task);
NPCR_API int64_t npcr_list_pairs_scratch(const NpcrTilePairs* task);
NPCR_API int32_t npcr_list_pairs(const NpcrTilePairs* task);
NPCR_API int32_t npcr_composite_gaussians(const NpcrCompositeGaussians* task);
NPCR_API int64_t npcr_composite_gaussians_grad_scratch(const NpcrCompositeGaussiansGrad* task);
NPCR_API int32_t npcr_composite_gaussians_grad(const NpcrCompositeGaussiansGrad* task);
NPCR_API int32_t npcr_harmonics(const NpcrHarmonics* task);
NPCR_API int32_t npcr_harmonics_grad(const NpcrHarmonicsGrad* task);

#endif
