# SPDX-License-Identifier: Apache-2.0
"""The structures of `csrc/interface.h`, field by field, and the functions that take them."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p


def _fields(kind: type, *names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, kind) for name in names)


class Rasterize(ctypes.Structure):
    """`struct NpcrRasterize`."""

    _fields_ = (
        *_fields(c_void_p, "points", "cam_to_world", "intrinsics"),
        *_fields(c_int64, "point_count", "cameras", "width", "height", "layers"),
        *_fields(c_float, "near_depth", "far_depth", "max_size"),
        *_fields(c_int32, "peel_pixels", "index_bytes", "threads"),
        *_fields(c_void_p, "index", "depth", "scratch"),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class Gather(ctypes.Structure):
    """`struct NpcrGather`."""

    _fields_ = (
        *_fields(c_void_p, "features", "default_feature", "index"),
        *_fields(c_int64, "point_count", "channels", "fragments"),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("output", c_void_p),
        ("stream", c_void_p),
    )


class Scatter(ctypes.Structure):
    """`struct NpcrScatter`."""

    _fields_ = (
        *_fields(c_void_p, "grad_output", "index", "order"),
        *_fields(c_int64, "point_count", "channels", "fragments"),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        *_fields(c_void_p, "grad_features", "grad_default", "scratch"),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class Pack(ctypes.Structure):
    """`struct NpcrPack`."""

    _fields_ = (
        ("weights", c_void_p),
        ("gate_weights", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("transposed", c_int32),
        ("threads", c_int32),
        ("packed", c_void_p),
        ("packed_floats", c_int64),
    )


class Convolve(ctypes.Structure):
    """`struct NpcrConvolve`."""

    _fields_ = (
        ("sources", c_void_p * 3),
        ("channels", c_int64 * 3),
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("images", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("outputs", c_int64 * 3),
        ("region", c_int64 * 4),
        ("gated", c_int32),
        ("threads", c_int32),
        ("targets", c_void_p * 3),
        ("gates", c_void_p),
        ("sums", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
    )


class ConvolveGrad(ctypes.Structure):
    """`struct NpcrConvolveGrad`."""

    _fields_ = (
        ("sources", c_void_p * 3),
        ("scale", c_void_p * 3),
        ("shift", c_void_p * 3),
        ("channels", c_int64 * 3),
        ("grad_output", c_void_p),
        ("images", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("outputs", c_int64),
        ("threads", c_int32),
        ("grad_weights", c_void_p),
        ("grad_gate_weights", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
    )


class Gate(ctypes.Structure):
    """`struct NpcrGate`."""

    _fields_ = (
        ("values", c_void_p),
        ("gates", c_void_p),
        ("grad", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("of_grad", c_void_p),
        ("of_value", c_void_p),
        ("constant", c_void_p),
        ("images", c_int64),
        ("pixels", c_int64),
        ("channels", c_int64),
        ("threads", c_int32),
        ("grad_raw", c_void_p),
        ("sums", c_void_p),
    )


class Normalize(ctypes.Structure):
    """`struct NpcrNormalize`."""

    _fields_ = (
        ("values", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("images", c_int64),
        ("pixels", c_int64),
        ("channels", c_int64),
        ("threads", c_int32),
        ("output", c_void_p),
    )


class Resample(ctypes.Structure):
    """`struct NpcrResample`."""

    _fields_ = (
        ("input", c_void_p),
        ("images", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int64),
        ("target_height", c_int64),
        ("target_width", c_int64),
        ("threads", c_int32),
        ("output", c_void_p),
        ("grad_output", c_void_p),
        ("grad_input", c_void_p),
    )


class Composite(ctypes.Structure):
    """`struct NpcrComposite`."""

    _fields_ = (
        ("dots", c_void_p),
        ("points", c_void_p),
        ("index", c_void_p),
        ("depth", c_void_p),
        ("background", c_void_p),
        ("dot_count", c_int64),
        ("point_count", c_int64),
        ("channels", c_int64),
        ("layers", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("image", c_void_p),
        ("mean_depth", c_void_p),
        ("stream", c_void_p),
    )


class CompositeGrad(ctypes.Structure):
    """`struct NpcrCompositeGrad`."""

    _fields_ = (
        ("dots", c_void_p),
        ("points", c_void_p),
        ("index", c_void_p),
        ("order", c_void_p),
        ("background", c_void_p),
        ("grad_image", c_void_p),
        ("dot_count", c_int64),
        ("point_count", c_int64),
        ("channels", c_int64),
        ("layers", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("grad_dots", c_void_p),
        ("grad_points", c_void_p),
        ("grad_background", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class ProjectGaussians(ctypes.Structure):
    """`struct NpcrProjectGaussians`."""

    _fields_ = (
        *_fields(c_void_p, "means", "strands", "widths", "opacities", "cam_to_world", "intrinsics"),
        *_fields(c_int64, "count", "width", "height"),
        ("filter_variance", c_float),
        ("min_share", c_float),
        ("threads", c_int32),
        ("ellipses", c_void_p),
        ("stream", c_void_p),
    )


class ProjectGaussiansGrad(ctypes.Structure):
    """`struct NpcrProjectGaussiansGrad`."""

    _fields_ = (
        *_fields(c_void_p, "means", "strands", "widths", "opacities", "cam_to_world", "intrinsics", "ellipses",
                 "grad_ellipses"),
        *_fields(c_int64, "count", "width", "height"),
        ("filter_variance", c_float),
        ("min_share", c_float),
        ("threads", c_int32),
        *_fields(c_void_p, "grad_means", "grad_strands", "grad_widths", "grad_opacities", "grad_camera", "scratch"),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class TilePairs(ctypes.Structure):
    """`struct NpcrTilePairs`."""

    _fields_ = (
        ("ellipses", c_void_p),
        *_fields(c_int64, "count", "width", "height", "pairs"),
        ("threads", c_int32),
        *_fields(c_void_p, "order", "offsets", "starts", "members", "slots", "tiles", "scratch"),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class CompositeGaussians(ctypes.Structure):
    """`struct NpcrCompositeGaussians`."""

    _fields_ = (
        *_fields(c_void_p, "ellipses", "values", "starts", "members"),
        *_fields(c_int64, "count", "channels", "width", "height", "pairs"),
        ("threads", c_int32),
        *_fields(c_void_p, "image", "mean_depth", "passing", "ends", "blocks", "stream"),
    )


class CompositeGaussiansGrad(ctypes.Structure):
    """`struct NpcrCompositeGaussiansGrad`."""

    _fields_ = (
        *_fields(c_void_p, "ellipses", "values", "order", "offsets", "starts", "members", "slots", "passing", "ends",
                 "blocks", "grad_image"),
        *_fields(c_int64, "count", "channels", "width", "height", "pairs"),
        ("threads", c_int32),
        *_fields(c_void_p, "grad_ellipses", "grad_values", "scratch"),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class Harmonics(ctypes.Structure):
    """`struct NpcrHarmonics`."""

    _fields_ = (
        *_fields(c_void_p, "points", "origin", "constant", "others"),
        ("count", c_int64),
        ("degree", c_int32),
        ("threads", c_int32),
        ("colors", c_void_p),
        ("stream", c_void_p),
    )


class HarmonicsGrad(ctypes.Structure):
    """`struct NpcrHarmonicsGrad`."""

    _fields_ = (
        *_fields(c_void_p, "points", "origin", "grad_colors"),
        ("count", c_int64),
        ("degree", c_int32),
        ("threads", c_int32),
        *_fields(c_void_p, "grad_constant", "grad_others", "stream"),
    )


# Functions that take a structure: the name, the structure, the type of the result.


class SurfaceDepth(ctypes.Structure):
    """`struct NpcrSurfaceDepth`."""

    _fields_ = (
        ("depth", c_void_p),
        *_fields(c_int64, "width", "height", "left", "top", "columns", "rows"),
        ("threads", c_int32),
        ("nearest", c_void_p),
        ("surface", c_void_p),
    )


class Blend(ctypes.Structure):
    """`struct NpcrBlend`."""

    _fields_ = (
        *_fields(c_void_p, "image", "surface", "images", "surfaces", "mappings", "turns", "shares"),
        *_fields(c_int64, "neighbors", "width", "height", "left", "top", "columns", "rows"),
        ("depth_tolerance", c_float),
        ("color_factor", c_float),
        ("threads", c_int32),
        ("blended", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
    )


class ColorField(ctypes.Structure):
    """`struct NpcrColorField`."""

    _fields_ = (
        *_fields(c_void_p, "places", "strands", "box"),
        ("count", c_int64),
        ("nodes", c_int32),
        ("threads", c_int32),
        *_fields(c_void_p, "values", "colors", "scratch"),
        ("scratch_bytes", c_int64),
    )


FUNCTIONS = (  # of both libraries
    ("npcr_rasterize_scratch", Rasterize, c_int64),
    ("npcr_rasterize", Rasterize, c_int32),
    ("npcr_gather", Gather, c_int32),
    ("npcr_scatter_scratch", Scatter, c_int64),
    ("npcr_scatter", Scatter, c_int32),
    ("npcr_composite", Composite, c_int32),
    ("npcr_composite_grad_scratch", CompositeGrad, c_int64),
    ("npcr_composite_grad", CompositeGrad, c_int32),
    ("npcr_project_gaussians", ProjectGaussians, c_int32),
    ("npcr_project_gaussians_grad_scratch", ProjectGaussiansGrad, c_int64),
    ("npcr_project_gaussians_grad", ProjectGaussiansGrad, c_int32),
    ("npcr_count_pairs_scratch", TilePairs, c_int64),
    ("npcr_count_pairs", TilePairs, c_int32),
    ("npcr_list_pairs_scratch", TilePairs, c_int64),
    ("npcr_list_pairs", TilePairs, c_int32),
    ("npcr_composite_gaussians", CompositeGaussians, c_int32),
    ("npcr_composite_gaussians_grad_scratch", CompositeGaussiansGrad, c_int64),
    ("npcr_composite_gaussians_grad", CompositeGaussiansGrad, c_int32),
    ("npcr_harmonics", Harmonics, c_int32),
    ("npcr_harmonics_grad", HarmonicsGrad, c_int32),
)
CPU_FUNCTIONS = (  # of the CPU library alone: the network, blending, shared colors
    ("npcr_pack_floats", Pack, c_int64),
    ("npcr_pack", Pack, c_int32),
    ("npcr_convolve_scratch", Convolve, c_int64),
    ("npcr_convolve", Convolve, c_int32),
    ("npcr_convolve_grad_scratch", ConvolveGrad, c_int64),
    ("npcr_convolve_grad", ConvolveGrad, c_int32),
    ("npcr_gate_sums", Gate, c_int32),
    ("npcr_gate_grad", Gate, c_int32),
    ("npcr_normalize", Normalize, c_int32),
    ("npcr_halve", Resample, c_int32),
    ("npcr_halve_grad", Resample, c_int32),
    ("npcr_double", Resample, c_int32),
    ("npcr_double_grad", Resample, c_int32),
    ("npcr_surface_depth", SurfaceDepth, c_int32),
    ("npcr_blend_scratch", Blend, c_int64),
    ("npcr_blend", Blend, c_int32),
    ("npcr_color_field", ColorField, c_int32),
    ("npcr_color_field_grad_scratch", ColorField, c_int64),
    ("npcr_color_field_grad", ColorField, c_int32),
)
