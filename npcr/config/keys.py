# SPDX-License-Identifier: Apache-2.0
"""Every configuration key, in the order in which configurations are written. docs/configuration.md is made from it."""

from __future__ import annotations

from math import inf

from yacs.config import CfgNode

from npcr.config.schema import CheckpointRole, Key

SECTIONS = {
    "MODEL": "The renderer and its network",
    "INPUT": "Sizes of pictures and splats",
    "PROJECTION": "From points to layers of pixels",
    "DATASETS": "The scene, and what training makes of its photographs",
    "DATALOADER": "Reading photographs",
    "SOLVER": "Training",
    "LOSS": "Weights of the training loss",
    "PERCEPTUAL": "The network of the perceptual loss",
    "TEST": "Evaluation of the held-out views",
    "WEIGHTS": "Thresholds and weights of the published implementation",
    "TEMPORAL": "Blending each frame with its neighbors",
    "RENDER": "Rendering pictures and videos",
    "REFINE": "Refining a model along a camera path",
    "": "Keys without a section",
}

_TABLE = (
    Key("MODEL.DEVICE", "cuda",
        "Where everything runs: cuda, cpu or cuda:N. Where there is no GPU, the CPU serves, with a notice."),
    Key("MODEL.FEATURE_DIM", 32, "Learned numbers per point.", range=(1, 1024), checkpoint="structure"),
    Key("MODEL.FORM", "layered",
        "The renderer. layered: as published, a U-Net pass for each layer. blended: one pass for all layers. "
        "strands: soft segments of any width, all of them composited.",
        choices=("layered", "blended", "strands"), checkpoint="structure"),
    Key("MODEL.LEGACY", False, "Compute exactly what the published implementation computes, for published checkpoints.",
        checkpoint="rendering", only_form="layered"),
    Key("MODEL.NORM", "instance",
        "Normalization of the layered form. instance: per image, as published. batch: running statistics.",
        choices=("instance", "batch", "none"), checkpoint="structure"),
    Key("MODEL.DOTS", 1, "Soft dots that draw a point of the blended form; several lie along the strand through it.",
        range=(1, 64), checkpoint="structure", unread_by=("strands",)),
    Key("MODEL.NETWORK", True, "Finish the picture of the strands form by a network. False: it is splats alone.",
        unread_by=("layered", "blended"), checkpoint="structure", in_scene_files=True),
    Key("MODEL.NETWORK_HALVINGS", 0,
        "How often the picture's sides are halved before the network of the strands form sees it. With 1 a step and a "
        "frame are shorter, and what the network adds has no finer detail.", range=(0, 1),
        unread_by=("layered", "blended"), checkpoint="structure", in_scene_files=True),
    Key("MODEL.FIELD_NODES", 0,
        "Nodes along each axis of a grid around the object whose colors by direction all splats of the strands form "
        "between them share; 0: each splat has its own alone.", range=(0, 16), unread_by=("layered", "blended"),
        checkpoint="structure", in_scene_files=True),
    Key("MODEL.FIELD_LOBES", 48,
        "Spherical Gaussians by which the colors of MODEL.FIELD_NODES change with direction. More are narrower, and "
        "need more photographs.", range=(4, 1024), unread_by=("layered", "blended"), checkpoint="structure",
        in_scene_files=True),
    Key("MODEL.FILTER_VARIANCE", 0.2,
        "Of the low-pass filter of the strands form's pictures, square pixels. A smaller one is sharper, a wider one "
        "flickers less; the area of a pixel has 1/12.", range=(0.01, 10), unread_by=("layered", "blended"),
        checkpoint="rendering", in_scene_files=True),
    Key("MODEL.MAX_SPLATS", 0,
        "Splats of a frame in the strands form, whatever its cloud has: a larger cloud is thinned, the points of a "
        "smaller one are repeated beside themselves. 0: one for each point.",
        range=(0, 2**31 - 1), checkpoint="structure", only_form="strands"),
    Key("MODEL.STRANDS", True,
        "Splats of the strands form start along the strands that the photographs show. False: they start nearly round.",
        only_form="strands"),
    Key("MODEL.WIDTH", 24, "Channels of the blended and the strands form's network at full resolution.",
        range=(4, 1024), checkpoint="structure"),
    Key("MODEL.COMPILE", False,
        "Run the network through torch.compile, in training too. Where that fails, it runs as it is."),
    Key("MODEL.HARMONICS", 2,
        "Degree of the spherical harmonics by which a point's color follows the view direction in the blended and the "
        "strands form; 0: not at all.", range=(0, 3), checkpoint="structure"),

    Key("INPUT.SIZE_RAW", [800, 800], "[width, height] of the photographs on disk, pixels.",
        range=(1, 65536), length=2, element=int),
    Key("INPUT.SIZE_TRAIN", [600, 600], "[width, height] of a training picture, pixels.",
        range=(24, 16384), length=2, element=int),
    Key("INPUT.SIZE_TEST", [600, 600], "[width, height] of a rendered picture, pixels.",
        range=(24, 16384), length=2, element=int),
    Key("INPUT.NEAR_FAR_SIZE", [6.0, 16.0, 1.0],
        "[near, far, radius]: between the depths near and far, a splat's radius falls from radius to 0.",
        range=(0, inf), length=3, checkpoint="rendering", unread_by=("strands",), in_scene_files=True),
    Key("INPUT.LAYER_NUM", 1, "Depth-peeled layers.", range=(1, 256), checkpoint="rendering",
        unread_by=("strands",)),
    Key("INPUT.USE_RGB", False,
        "Feed the points' own colors to the layered form's network; the other forms start from them.",
        checkpoint="structure"),

    Key("PROJECTION.PEELING", "point",
        "How layers are made. point: as published, the points of a layer leave the cloud. "
        "pixel: the K nearest points of each pixel.", choices=("point", "pixel"), checkpoint="rendering",
        unread_by=("strands",)),
    Key("PROJECTION.BACKEND", "auto",
        "Kernels of the projection, the network and blending. compiled: refuse to run without. torch: never use them.",
        choices=("auto", "compiled", "torch")),

    Key("DATASETS.TRAIN", "", "Folder of the scene, relative to the YAML file, else to the working directory."),
    Key("DATASETS.TEST", "",
        "Folder of a second scene of the same cloud, whose photographs are the held-out views."),
    Key("DATASETS.FRAME_NUM", 1, "Frames (poses of the object), each with photographs and a cloud of its own.",
        range=(1, 100000)),
    Key("DATASETS.MASK", True, "The photographs have mattes. False: alpha is 1 everywhere."),
    Key("DATASETS.CENTER", [],
        "[y, x] of the object for each camera; a shorter list is spread evenly over the cameras. "
        "Empty: the picture's center.", pairs=True),
    Key("DATASETS.SHIFT", 10, "Augmentation: the largest shift, in pixels of INPUT.SIZE_TRAIN.", range=(0, 16384)),
    Key("DATASETS.MAXRATION", 0.5, "Augmentation: a crop is enlarged by a factor of 1 to 1 plus this.",
        range=(0, 16)),
    Key("DATASETS.ROTATION", 0.0, "Augmentation: the camera is rolled by up to half of this to each side, degrees.",
        range=(0, 360)),
    Key("DATASETS.HOLDOUT_EVERY", 0, "Every Nth camera is kept from training and used to evaluate; 0: none.",
        range=(0, inf)),
    Key("DATASETS.ALPHA_MODE", "straight", "How colors and alpha are combined in the photographs.",
        choices=("straight", "premultiplied", "composited")),
    Key("DATASETS.ALPHA_BACKGROUND", [0, 0, 0], "The color behind composited photographs, RGB from 0 to 255.",
        range=(0, 255), length=3),
    Key("DATASETS.CACHE_MB", 2048, "Decoded photographs are kept in memory up to this many MiB.", range=(0, inf)),

    Key("DATALOADER.NUM_WORKERS", 0, "Threads that decode photographs ahead; they share one cache. 0: none.",
        range=(0, 256)),

    Key("SOLVER.OPTIMIZER_NAME", "Adam", "The optimizer. FusedAdam needs apex.",
        choices=("Adam", "AdamW", "SGD", "FusedAdam")),
    Key("SOLVER.MAX_EPOCHS", 1500, "Training ends after this many epochs.", range=(1, inf)),
    Key("SOLVER.MAX_MINUTES", 0.0,
        "Training ends, and cosine decay with it, after this many minutes or at SOLVER.MAX_EPOCHS; 0: no limit.",
        range=(0, inf)),
    Key("SOLVER.BASE_LR", 5e-5, "Learning rate; the factors below multiply it.", range=(0, 1)),
    Key("SOLVER.BIAS_LR_FACTOR", 2.0, "Factor of the learning rate of biases.", range=(0, 1e6)),
    Key("SOLVER.FEATURE_LR_FACTOR", 1.0, "Factor of the learning rate of point features.", range=(0, 1e6)),
    Key("SOLVER.HARMONICS_LR_FACTOR", 1.0,
        "Factor of the learning rate of the change of a point's color with direction.", range=(0, 1e6)),
    Key("SOLVER.HARMONICS_DECAY", 0.0, "Weight decay of the change of a point's color with direction (AdamW).",
        range=(0, 1e6)),
    Key("SOLVER.HARMONICS_CELL", 0.0,
        "Splats learn the change of their color with direction together with their neighbors: with those in a cell of "
        "this side, in spacings of the cloud. 0: each by itself.", range=(0, 1e4), unread_by=("layered", "blended"),
        in_scene_files=True),
    Key("SOLVER.COLOR_DECAY", 0.0,
        "Decay of the differences between a splat's color and its neighbors', as weight decay is in AdamW. 0: none.",
        range=(0, 1e6), only_form="strands"),
    Key("SOLVER.FIELD_LR_FACTOR", 5.0, "Factor of the learning rate of the colors of MODEL.FIELD_NODES.",
        range=(0, 1e6), only_form="strands"),
    Key("SOLVER.OPACITY_LR_FACTOR", 30.0, "Factor of the learning rate of the points' opacity.",
        range=(0, 1e6)),
    Key("SOLVER.POSITION_LR_FACTOR", 5.0,
        "Factor of the learning rate of the points' positions and strands.", range=(0, 1e6)),
    Key("SOLVER.WIDTH_LR_FACTOR", 10.0, "Factor of the learning rate of the splats' width.",
        range=(0, 1e6)),
    Key("SOLVER.POINT_EPS", 1e-8,
        "Adam's epsilon for what the blended and strands forms' points learn: numbers whose gradients are smaller "
        "hardly change. 3D Gaussian Splatting (Kerbl et al. 2023) has 1e-15.", range=(1e-30, 1)),
    Key("SOLVER.MOMENTUM", 0.9, "Momentum of SGD.", range=(0, 1)),
    Key("SOLVER.WEIGHT_DECAY", 2e-5, "Weight decay.", range=(0, 1)),
    Key("SOLVER.WEIGHT_DECAY_BIAS", 0.0, "Weight decay of biases.", range=(0, 1)),
    Key("SOLVER.LR_DECAY", "step",
        "Decay of the learning rate. step: by SOLVER.GAMMA at SOLVER.STEPS. cosine: to zero at the end of training.",
        choices=("step", "cosine")),
    Key("SOLVER.GAMMA", 0.1, "Factor of each step of the learning rate's decay.", range=(0, 1)),
    Key("SOLVER.STEPS", [], "Epochs at which the learning rate is multiplied by SOLVER.GAMMA.",
        range=(0, inf), element=int),
    Key("SOLVER.WARMUP_FACTOR", 1.0 / 3.0, "The share of the learning rate that warm-up starts at.", range=(0, 1)),
    Key("SOLVER.WARMUP_ITERS", 20, "Epochs of warm-up.", range=(0, inf)),
    Key("SOLVER.WARMUP_METHOD", "linear", "How the learning rate grows in warm-up.", choices=("linear", "constant")),
    Key("SOLVER.CHECKPOINT_PERIOD", 10, "Epochs between checkpoints; the last epoch is always written.",
        range=(1, inf)),
    Key("SOLVER.LOG_PERIOD", 10, "Steps between TensorBoard scalars.", range=(1, inf)),
    Key("SOLVER.IMS_PER_BATCH", 1, "Photographs per optimizer step, of all processes together.", range=(1, 1024)),
    Key("SOLVER.LAYER_SCHEDULE", [],
        "Epochs at which a layer is added, beginning with one layer. Empty: INPUT.LAYER_NUM layers from the start.",
        range=(1, inf), element=int, unread_by=("strands",)),
    Key("SOLVER.RELOCATE_EVERY", 0,
        "Steps after which splats of no use become parts of others, in the strands form (Kheradmand et al. 2024: 100); "
        "0: never.", range=(0, inf), unread_by=("layered", "blended"), in_scene_files=True),
    Key("SOLVER.RELOCATE_BY", "gradient",
        "What makes a splat useful. opacity: its opacity. gradient: how much the loss depended on its color, which "
        "says how much of it is seen, and needs Adam. The more useful it is, the likelier it is cut into parts.",
        choices=("opacity", "gradient"), only_form="strands"),
    Key("SOLVER.RELOCATE_BELOW", 0.2, "A splat is of no use that is less useful than this share of the mean.",
        range=(0, 1), unread_by=("layered", "blended"), in_scene_files=True),
    Key("SOLVER.RELOCATE_UNTIL", 0.8, "Share of the training after which no splat is moved any more.", range=(0, 1),
        only_form="strands"),
    Key("SOLVER.PRUNE_BELOW", 0.0,
        "At the end of training, splats that cover fewer pixels of all training photographs together than this are "
        "removed; 0: none.", range=(0, inf), only_form="strands"),
    Key("SOLVER.DROP_SPLATS", 0.0,
        "Share of the splats that a step of the strands form leaves out, growing from 0 to this over the training "
        "(Park et al. 2025: 0.2).", range=(0, 0.95), unread_by=("layered", "blended"), in_scene_files=True),
    Key("SOLVER.DROP_CELL", 0.0,
        "Splats are left out together in cells of this side, in spacings of the cloud; 0: each by itself.",
        range=(0, 1e4), only_form="strands"),
    Key("SOLVER.DROP_HARMONICS", 0.0,
        "Probability that a step does without the higher degrees of MODEL.HARMONICS, from a random one on (after Fang "
        "et al. 2026).", range=(0, 1), only_form="strands"),
    Key("SOLVER.NETWORK_FROM", 0.0,
        "Share of the training after which the network of the strands form joins. Before that the splats alone are "
        "trained, in shorter steps.", range=(0, 0.95), unread_by=("layered", "blended"), in_scene_files=True),
    Key("SOLVER.RESOLUTION_SCHEDULE", [],
        "Shares of the training at which the photographs' sides double. Before the first, INPUT.SIZE_TRAIN is halved "
        "as often as there are shares, but not below 24 pixels; steps are shorter then. Empty: full resolution from "
        "the start.", range=(0, 0.95), element=float, unread_by=("layered", "blended"), in_scene_files=True),
    Key("SOLVER.PRECISION", "float32",
        "What training computes in; refining is in float32. The short ones are for GPUs (docs/performance.md).",
        choices=("float32", "tf32", "bfloat16", "float16", "float16x2")),
    Key("SOLVER.DETERMINISTIC", False,
        "Train in algorithms that give the same bits each time, on a GPU too; a step may take longer."),
    Key("SOLVER.RECOMPUTE_LAYERS", False,
        "Keep the activations of only one layer of the layered form in memory at a time; a step takes longer.",
        only_form="layered"),
    Key("SOLVER.HALF_ACTIVATIONS", False,
        "Keep activations for the gradients as float16; computation stays as it is."),
    Key("SOLVER.TIMEOUT", 300.0,
        "Several processes (docs/distributed.md): seconds after which one that does not answer is taken for lost.",
        range=(1, 86400)),
    Key("SOLVER.SEED", 0, "Seed of all random numbers of training and refining.", range=(0, 2**32 - 1)),

    Key("LOSS.PERCEPTUAL", 1.0, "Weight of the difference of VGG-19 features; 0: VGG-19 is not loaded at all.",
        range=(0, inf)),
    Key("LOSS.MSE", 1.0, "Weight of the squared error over color and alpha.", range=(0, inf)),
    Key("LOSS.L1", 0.0, "Weight of the absolute error over color and alpha.", range=(0, inf)),
    Key("LOSS.GRADIENT", 0.0, "Weight of the difference of gradient magnitudes; 0: it is only logged.",
        range=(0, inf)),
    Key("LOSS.SSIM", 0.0, "Weight of 1 - SSIM.", range=(0, inf)),
    Key("LOSS.MATTE", 1.0,
        "Factor of alpha's error in LOSS.MSE and LOSS.L1; that of each color channel is 1, and so is this one where "
        "photographs have no mattes (DATASETS.MASK False).", range=(0, inf)),
    Key("LOSS.OPACITY", 0.0, "Weight of the mean opacity of the strands form's splats (Kheradmand et al. 2024: 0.01).",
        range=(0, inf), only_form="strands"),
    Key("LOSS.SIZE", 0.0,
        "Weight of the mean length and width of the strands form's splats, in spacings of the cloud.",
        range=(0, inf), only_form="strands"),

    Key("PERCEPTUAL.CHECKPOINT", "",
        "File of VGG-19's weights (.safetensors or .pth). Empty: torchvision downloads them."),

    Key("TEST.IMS_PER_BATCH", 1, "Views rendered together while evaluating.", range=(1, 1024)),
    Key("TEST.PERIOD", 10, "Epochs between evaluations of the held-out views; 0: never while training.",
        range=(0, inf)),

    Key("WEIGHTS.RENDER_WEIGHTS", [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02],
        "Weights of the legacy blend: of the current frame, the previous blended one, and five previous raw ones.",
        range=(0, 1), length=7),
    Key("WEIGHTS.REFINE_WEIGHTS", [0.5, 0.5, 0.25, 0.75],
        "Weights of published refining: of the previous blended and the previous raw frame in their sum, "
        "then of the raw frame and of that sum.", range=(0, 1), length=4),
    Key("WEIGHTS.COLOR_THR", 8000.0,
        "Largest squared RGB distance (0-255) at which the legacy blend and published refining use a color.",
        range=(0, inf)),
    Key("WEIGHTS.DEPTH_THR", 0.0,
        "In the layered form, a deeper layer counts only within this depth of the one before it; 0: always.",
        range=(0, inf), checkpoint="rendering"),

    Key("TEMPORAL.BLEND", "default", "How frames are blended. legacy: as published.",
        choices=("default", "legacy", "off")),
    Key("TEMPORAL.FILTER_VARIANCE", 0.0,
        "MODEL.FILTER_VARIANCE for the frames of camera paths: a wider filter is steadier. 0: the same.",
        range=(0, 10), unread_by=("layered", "blended"), in_scene_files=True),
    Key("TEMPORAL.HISTORY", 3.0,
        "Frames that the default blend mixes into one, with the frame itself in the middle; 1: itself alone.",
        range=(1, 99)),
    Key("TEMPORAL.DEPTH_TOLERANCE", 0.02,
        "Relative depth difference at which the default blend's weight of another frame falls to 1/e.",
        range=(0, 1)),
    Key("TEMPORAL.COLOR_TOLERANCE", 22.0,
        "Difference of local mean colors (0-255) at which the default blend's weight of another frame falls to 1/e.",
        range=(0, inf)),
    Key("TEMPORAL.ANGLE", 20.0,
        "Change of the viewing direction, in degrees per frame, at which the default blend's weight of another "
        "frame falls to 1/e.", range=(0.01, 180)),

    Key("RENDER.MARGIN", -1,
        "Pixels around a layer's points beyond which a layer of the layered form is transparent; -1: no limit.",
        range=(-1, 16384)),
    Key("RENDER.TILE", 0,
        "Side of a tile, pixels: larger pictures are rendered in tiles, in less memory. Not with MODEL.NORM instance. "
        "0: whole.", range=(0, 16384)),
    Key("RENDER.PRECISION", "float32",
        "What the network computes in; the short ones are for GPUs (docs/performance.md).",
        choices=("float32", "tf32", "bfloat16", "float16", "float16x2")),
    Key("RENDER.CUDA_GRAPHS", False, "Capture the network once on a GPU and replay it for each frame."),
    Key("RENDER.RAW", False, "Also write raw/img_0001.npz and so on: rgb, alpha and depth as float32."),
    Key("RENDER.EXR", "off",
        "Also write exr/img_0001.exr and so on: premultiplied R, G, B, A in half (16 bits) or float (32), and depth Z. "
        "Needs the extra exr.", choices=("off", "half", "float")),
    Key("RENDER.EXR_COLOR", "linear",
        "Color in EXR files. linear: scene-linear, as compositors expect. stored: sRGB-encoded, as rendered.",
        choices=("linear", "stored")),
    Key("RENDER.VIDEO", ["h264"],
        "Formats of the videos, such as h264,gif; vp9, prores and webp have alpha. []: no video.",
        choices=("h264", "h265", "vp9", "prores", "gif", "webp"), element=str),
    Key("RENDER.FPS", 30.0, "Frame rate of the videos.", range=(1, 1000)),

    Key("REFINE.SCHEME", "steady",
        "How a model is refined. published: one optimizer step per walk; legacy models take it unless told otherwise.",
        choices=("steady", "published")),
    Key("REFINE.PATH", "given",
        "The steady scheme's cameras. given: the frames of --cam-pose. random: fine arcs all around the object.",
        choices=("given", "random")),
    Key("REFINE.PASSES", 10,
        "Passes. published: walks over the path with one optimizer step each. steady: REFINE.STEPS steps each.",
        range=(1, 10000)),
    Key("REFINE.STEPS", 40, "Optimizer steps of a pass of the steady scheme; validation follows each pass.",
        range=(1, 100000)),
    Key("REFINE.LR", 0.0, "Learning rate; 0: SOLVER.BASE_LR.", range=(0, 1)),
    Key("REFINE.WINDOW", 2, "Neighboring frames that a step of the steady scheme makes agree.", range=(2, 16)),
    Key("REFINE.ARC_DEGREES", 1.0, "Largest turn from frame to frame of the steady scheme's random arcs, degrees.",
        range=(0.001, 45)),
    Key("REFINE.STEADINESS", 40.0,
        "The steady scheme's weight of the squared difference between neighboring frames (colors 0-1).",
        range=(0, inf)),
    Key("REFINE.PHOTOMETRIC", 1.0,
        "The steady scheme's weight of the training loss of a training photograph; 0: none.", range=(0, inf)),
    Key("REFINE.ANCHOR", 1.0,
        "The steady scheme's weight of the squared distance to the unrefined model's rendering; 0: none.",
        range=(0, inf)),
    Key("REFINE.DEPTH_TOLERANCE", 0.02,
        "Relative depth difference at which the steady scheme's weight of a reprojection falls to 1/e.",
        range=(1e-6, 1)),
    Key("REFINE.PSNR_DROP", 0.1,
        "The steady scheme discards a pass whose PSNR lies more than this below the start's, dB.", range=(0, inf)),
    Key("REFINE.PATIENCE", 5,
        "The steady scheme ends after this many passes in a row of good PSNR but no less flicker; 0: never.",
        range=(0, 10000)),

    Key("OUTPUT_DIR", "output", "Folder of checkpoints, logs and pictures."),
    Key("BACKGROUND_GRAY", 255, "Gray behind rendered pictures, from 0 to 255.", range=(0, 255)),
    Key("LOAD_EPOCH", -1, "Epoch of the checkpoint to load; -1: the newest.", range=(-1, inf)),
    Key("RESUME", False, "Continue training from LOAD_EPOCH."),
)

KEYS = {key.name: key for key in _TABLE}


def default_config() -> CfgNode:
    """Make a configuration of the keys' defaults.

    Returns:
        A fresh one, which may be changed.
    """
    cfg = CfgNode()
    for section in filter(None, SECTIONS):
        cfg[section] = CfgNode()
    for key in _TABLE:
        node, leaf = locate(cfg, key.name)
        node[leaf] = list(key.default) if isinstance(key.default, list) else key.default
    return cfg


def locate(cfg: CfgNode, name: str) -> tuple[CfgNode, str]:
    """Find the place of a key in a configuration.

    Args:
        cfg: has the key's section.
        name: dotted.

    Returns:
        The section, or `cfg` itself for a key without one, and the key's name in it.
    """
    section, _, leaf = name.rpartition(".")
    return (cfg[section] if section else cfg), leaf


def checkpoint_keys(role: CheckpointRole) -> tuple[str, ...]:
    """List the keys that a checkpoint has a say in.

    Args:
        role: "structure": the checkpoint's parameters depend on these, so that the configuration must agree.
            "rendering": it was trained with these, and is rendered with them unless the user set others.

    Returns:
        Dotted names.
    """
    return tuple(key.name for key in _TABLE if key.checkpoint == role)
