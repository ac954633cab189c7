# SPDX-License-Identifier: Apache-2.0
"""Every configuration key: its default, what it does, and what it may be. `npcr.config.loading` loads and checks."""

from __future__ import annotations

import math

from yacs.config import CfgNode

DEFAULTS = CfgNode()

DEFAULTS.MODEL = CfgNode()
DEFAULTS.MODEL.DEVICE = "cuda"  # cuda (the CPU serves, with a notice, where there is none), cpu, or cuda:N
DEFAULTS.MODEL.FEATURE_DIM = 32  # learned numbers per point
DEFAULTS.MODEL.FORM = "layered"  # layered (published: a U-Net pass for each layer), blended (one pass for all)
DEFAULTS.MODEL.LEGACY = False  # True: the published implementation's numbers, for published checkpoints
DEFAULTS.MODEL.NORM = "instance"  # layered: instance (per image, as published), batch (running statistics), none
DEFAULTS.MODEL.DOTS = 1  # blended: soft dots that draw a point; several lie along the strand that passes there
DEFAULTS.MODEL.WIDTH = 24  # blended: channels of the network at full resolution
DEFAULTS.MODEL.COMPILE = False  # the network through torch.compile, in training too; where it fails, as it is
DEFAULTS.MODEL.HARMONICS = 2  # blended: degree to which a point's color follows the view direction; 0: not

DEFAULTS.INPUT = CfgNode()
DEFAULTS.INPUT.SIZE_RAW = [800, 800]  # [width, height] of the photographs on disk, pixels
DEFAULTS.INPUT.SIZE_TRAIN = [600, 600]  # [width, height] of a training picture
DEFAULTS.INPUT.SIZE_TEST = [600, 600]  # [width, height] of a rendered picture
DEFAULTS.INPUT.NEAR_FAR_SIZE = [6.0, 16.0, 1.0]  # depths between which a splat's radius falls from the third to 0
DEFAULTS.INPUT.LAYER_NUM = 1  # depth-peeled layers, at least 1
DEFAULTS.INPUT.USE_RGB = False  # layered: feed the points' own colors to the network (blended starts from them)

DEFAULTS.PROJECTION = CfgNode()
DEFAULTS.PROJECTION.PEELING = "point"  # point: winners leave the cloud (published); pixel: K nearest of each pixel
DEFAULTS.PROJECTION.BACKEND = "auto"  # kernels: auto, compiled (refuse to run without them), torch; the network's too

DEFAULTS.DATASETS = CfgNode()
DEFAULTS.DATASETS.TRAIN = ""  # folder of the scene; relative to the YAML file, else to the working directory
DEFAULTS.DATASETS.TEST = ""  # folder of a second scene of the same cloud whose photographs are the held-out views
DEFAULTS.DATASETS.FRAME_NUM = 1  # frames (poses of the object), each with its own photographs and cloud
DEFAULTS.DATASETS.MASK = True  # photographs have mattes; False: alpha is 1 everywhere
DEFAULTS.DATASETS.CENTER = []  # [y, x] of the object per camera, evenly over the list; empty: the picture's center
DEFAULTS.DATASETS.SHIFT = 10  # augmentation: largest shift, in pixels of SIZE_TRAIN
DEFAULTS.DATASETS.MAXRATION = 0.5  # augmentation: a crop is enlarged by 1 to 1 + this
DEFAULTS.DATASETS.ROTATION = 0.0  # augmentation: rolls the camera by up to half of this to each side, degrees
DEFAULTS.DATASETS.HOLDOUT_EVERY = 0  # every Nth camera is kept from training and used to evaluate; 0: none
DEFAULTS.DATASETS.ALPHA_MODE = "straight"  # colors in the photographs: straight, premultiplied, composited
DEFAULTS.DATASETS.ALPHA_BACKGROUND = [0, 0, 0]  # composited: the color behind, 0-255
DEFAULTS.DATASETS.CACHE_MB = 2048  # decoded photographs are kept in memory up to this many MiB

DEFAULTS.DATALOADER = CfgNode()
DEFAULTS.DATALOADER.NUM_WORKERS = 0  # threads that decode photographs ahead; they share one cache. 0: none

DEFAULTS.SOLVER = CfgNode()
DEFAULTS.SOLVER.OPTIMIZER_NAME = "Adam"  # Adam, AdamW, SGD, FusedAdam (apex, when installed)
DEFAULTS.SOLVER.MAX_EPOCHS = 1500
DEFAULTS.SOLVER.MAX_MINUTES = 0.0  # training ends after so long, cosine decay with it, or at MAX_EPOCHS; 0: no limit
DEFAULTS.SOLVER.BASE_LR = 5e-5
DEFAULTS.SOLVER.BIAS_LR_FACTOR = 2.0  # biases learn this much faster
DEFAULTS.SOLVER.FEATURE_LR_FACTOR = 1.0  # point features learn this much faster (published: 1)
DEFAULTS.SOLVER.HARMONICS_LR_FACTOR = 1.0  # blended: how colors change with direction learns this much faster
DEFAULTS.SOLVER.HARMONICS_DECAY = 0.0  # blended: and decays towards none; the optimizer's weight decay (AdamW)
DEFAULTS.SOLVER.OPACITY_LR_FACTOR = 30.0  # blended: the points' opacity learns this much faster
DEFAULTS.SOLVER.POSITION_LR_FACTOR = 5.0  # blended: the points' places and strands learn this much faster
DEFAULTS.SOLVER.WIDTH_LR_FACTOR = 10.0  # blended: the splats' width learns this much faster
DEFAULTS.SOLVER.MOMENTUM = 0.9  # SGD only
DEFAULTS.SOLVER.WEIGHT_DECAY = 2e-5
DEFAULTS.SOLVER.WEIGHT_DECAY_BIAS = 0.0
DEFAULTS.SOLVER.LR_DECAY = "step"  # step: by GAMMA at STEPS; cosine: to zero at MAX_EPOCHS
DEFAULTS.SOLVER.GAMMA = 0.1
DEFAULTS.SOLVER.STEPS = []  # epochs at which the rate is multiplied by GAMMA
DEFAULTS.SOLVER.WARMUP_FACTOR = 1.0 / 3.0  # the rate starts at this share
DEFAULTS.SOLVER.WARMUP_ITERS = 20  # epochs of warm-up
DEFAULTS.SOLVER.WARMUP_METHOD = "linear"  # linear or constant
DEFAULTS.SOLVER.CHECKPOINT_PERIOD = 10  # epochs between checkpoints; the last epoch is always written
DEFAULTS.SOLVER.LOG_PERIOD = 10  # steps between TensorBoard scalars
DEFAULTS.SOLVER.IMS_PER_BATCH = 1  # photographs per optimizer step
DEFAULTS.SOLVER.LAYER_SCHEDULE = []  # epochs at which a layer is added, from one up; empty: LAYER_NUM at once
DEFAULTS.SOLVER.AMP = True  # mixed precision with torch.amp on a GPU; nothing on a CPU
DEFAULTS.SOLVER.RECOMPUTE_LAYERS = False  # one layer's activations in memory at a time; the step takes longer
DEFAULTS.SOLVER.HALF_ACTIVATIONS = False  # pictures kept for the gradients as float16; computation stays as it is
DEFAULTS.SOLVER.SEED = 0

DEFAULTS.LOSS = CfgNode()
DEFAULTS.LOSS.PERCEPTUAL = 1.0  # weight of the VGG-19 features term; 0: VGG is not loaded at all
DEFAULTS.LOSS.MSE = 1.0  # weight of the squared error over color and alpha
DEFAULTS.LOSS.L1 = 0.0  # weight of the absolute error over color and alpha
DEFAULTS.LOSS.GRADIENT = 0.0  # weight of the gradient-magnitude term; 0: only logged
DEFAULTS.LOSS.SSIM = 0.0  # weight of 1 - SSIM

DEFAULTS.PERCEPTUAL = CfgNode()
DEFAULTS.PERCEPTUAL.CHECKPOINT = ""  # VGG-19 weights (.safetensors or .pth); empty: torchvision downloads them

DEFAULTS.TEST = CfgNode()
DEFAULTS.TEST.IMS_PER_BATCH = 1  # views rendered together while evaluating
DEFAULTS.TEST.PERIOD = 10  # epochs between evaluations of the held-out views; 0: never while training

DEFAULTS.WEIGHTS = CfgNode()
DEFAULTS.WEIGHTS.RENDER_WEIGHTS = [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02]  # legacy blend: current, blended, 5 raw
DEFAULTS.WEIGHTS.REFINE_WEIGHTS = [0.5, 0.5, 0.25, 0.75]  # previous blended, previous raw; raw, their sum
DEFAULTS.WEIGHTS.COLOR_THR = 8000.0  # legacy, published refining: squared RGB distance (0-255) of what counts
DEFAULTS.WEIGHTS.DEPTH_THR = 0.0  # layered: a deeper layer counts only within this depth of the one before; 0: always

DEFAULTS.TEMPORAL = CfgNode()
DEFAULTS.TEMPORAL.BLEND = "default"  # default, legacy (as published), off
DEFAULTS.TEMPORAL.HISTORY = 3.0  # default blend: frames that have a say in one, itself in their middle; 1: no other
DEFAULTS.TEMPORAL.DEPTH_TOLERANCE = 0.02  # default blend: relative depth difference that lowers trust to 1/e
DEFAULTS.TEMPORAL.COLOR_TOLERANCE = 22.0  # default blend: difference of local means (0-255) that lowers it to 1/e
DEFAULTS.TEMPORAL.ANGLE = 20.0  # default blend: change of viewing direction, degrees a frame, that lowers it to 1/e

DEFAULTS.RENDER = CfgNode()
DEFAULTS.RENDER.MARGIN = -1  # layered: pixels around a layer's points beyond which it is transparent; -1: none
DEFAULTS.RENDER.PRECISION = "float32"  # what the network computes in: float32, bfloat16, float16 (for GPUs)
DEFAULTS.RENDER.CUDA_GRAPHS = False  # on a GPU, capture the network once and replay it for each frame
DEFAULTS.RENDER.RAW = False  # also write raw/img_0001.npz: rgb, alpha, depth as float32
DEFAULTS.RENDER.VIDEO = ["h264"]  # h264, h265, vp9 and prores and webp (with alpha), gif; several: h264,gif; none: []
DEFAULTS.RENDER.FPS = 30.0  # frame rate of the videos

DEFAULTS.REFINE = CfgNode()
DEFAULTS.REFINE.SCHEME = "steady"  # steady, published (one optimizer step a walk; legacy models take it by themselves)
DEFAULTS.REFINE.PATH = "given"  # steady: the frames of --cam-pose, or random: fine arcs all around the object
DEFAULTS.REFINE.PASSES = 10  # published: walks over the path, one optimizer step each; steady: see STEPS
DEFAULTS.REFINE.STEPS = 40  # steady: optimizer steps of a pass; validation follows each pass
DEFAULTS.REFINE.LR = 0.0  # learning rate; 0: SOLVER.BASE_LR
DEFAULTS.REFINE.WINDOW = 2  # steady: neighboring frames that are made to agree in a step
DEFAULTS.REFINE.ARC_DEGREES = 1.0  # steady, random path: largest turn from frame to frame
DEFAULTS.REFINE.STEADINESS = 40.0  # steady: weight of the frames' disagreement (squared, 0-1)
DEFAULTS.REFINE.PHOTOMETRIC = 1.0  # steady: weight of the training loss of a training photograph; 0: none
DEFAULTS.REFINE.ANCHOR = 1.0  # steady: weight of the squared distance to the unrefined model's rendering; 0: none
DEFAULTS.REFINE.DEPTH_TOLERANCE = 0.02  # steady: relative depth difference at which trust in a reprojection fades
DEFAULTS.REFINE.PSNR_DROP = 0.1  # steady: a pass whose PSNR lies more than this below the start's is not kept, dB
DEFAULTS.REFINE.PATIENCE = 5  # steady: passes in a row of good PSNR but no less flicker before the run ends; 0: never

DEFAULTS.OUTPUT_DIR = "output"  # where checkpoints, logs and pictures go
DEFAULTS.BACKGROUND_GRAY = 255  # gray behind rendered pictures, 0-255
DEFAULTS.LOAD_EPOCH = -1  # checkpoint to load; -1: the newest
DEFAULTS.RESUME = False  # go on training from LOAD_EPOCH

CHOICES = {
    "MODEL.FORM": ("layered", "blended"),
    "MODEL.NORM": ("instance", "batch", "none"),
    "PROJECTION.PEELING": ("point", "pixel"),
    "PROJECTION.BACKEND": ("auto", "compiled", "torch"),
    "DATASETS.ALPHA_MODE": ("straight", "premultiplied", "composited"),
    "SOLVER.OPTIMIZER_NAME": ("Adam", "AdamW", "SGD", "FusedAdam"),
    "SOLVER.LR_DECAY": ("step", "cosine"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "TEMPORAL.BLEND": ("default", "legacy", "off"),
    "RENDER.PRECISION": ("float32", "bfloat16", "float16"),
    "RENDER.VIDEO": ("h264", "h265", "vp9", "prores", "gif", "webp"),  # a list: each entry
    "REFINE.SCHEME": ("steady", "published"),
    "REFINE.PATH": ("given", "random"),
}

# key -> (lowest, highest); for a list the bounds hold for every entry.
RANGES: dict[str, tuple[float, float]] = {
    "MODEL.FEATURE_DIM": (1, 1024),
    "MODEL.DOTS": (1, 64),
    "MODEL.WIDTH": (4, 1024),
    "MODEL.HARMONICS": (0, 3),
    "INPUT.SIZE_RAW": (1, 65536),
    "INPUT.SIZE_TRAIN": (24, 16384),
    "INPUT.SIZE_TEST": (24, 16384),
    "INPUT.NEAR_FAR_SIZE": (0, math.inf),
    "INPUT.LAYER_NUM": (1, 256),
    "DATASETS.FRAME_NUM": (1, 100000),
    "DATASETS.SHIFT": (0, 16384),
    "DATASETS.MAXRATION": (0, 16),
    "DATASETS.ROTATION": (0, 360),
    "DATASETS.HOLDOUT_EVERY": (0, math.inf),
    "DATASETS.ALPHA_BACKGROUND": (0, 255),
    "DATASETS.CACHE_MB": (0, math.inf),
    "DATALOADER.NUM_WORKERS": (0, 256),
    "SOLVER.MAX_EPOCHS": (1, math.inf),
    "SOLVER.MAX_MINUTES": (0, math.inf),
    "SOLVER.BASE_LR": (0, 1),
    "SOLVER.BIAS_LR_FACTOR": (0, 1e6),
    "SOLVER.FEATURE_LR_FACTOR": (0, 1e6),
    "SOLVER.HARMONICS_LR_FACTOR": (0, 1e6),
    "SOLVER.HARMONICS_DECAY": (0, 1e6),
    "SOLVER.OPACITY_LR_FACTOR": (0, 1e6),
    "SOLVER.POSITION_LR_FACTOR": (0, 1e6),
    "SOLVER.WIDTH_LR_FACTOR": (0, 1e6),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, 1),
    "SOLVER.WEIGHT_DECAY_BIAS": (0, 1),
    "SOLVER.GAMMA": (0, 1),
    "SOLVER.STEPS": (0, math.inf),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "SOLVER.LOG_PERIOD": (1, math.inf),
    "SOLVER.IMS_PER_BATCH": (1, 1024),
    "SOLVER.LAYER_SCHEDULE": (1, math.inf),
    "SOLVER.SEED": (0, 2**32 - 1),
    "LOSS.PERCEPTUAL": (0, math.inf),
    "LOSS.MSE": (0, math.inf),
    "LOSS.L1": (0, math.inf),
    "LOSS.GRADIENT": (0, math.inf),
    "LOSS.SSIM": (0, math.inf),
    "TEST.IMS_PER_BATCH": (1, 1024),
    "TEST.PERIOD": (0, math.inf),
    "WEIGHTS.RENDER_WEIGHTS": (0, 1),
    "WEIGHTS.REFINE_WEIGHTS": (0, 1),
    "WEIGHTS.COLOR_THR": (0, math.inf),
    "WEIGHTS.DEPTH_THR": (0, math.inf),
    "TEMPORAL.HISTORY": (1, 99),
    "TEMPORAL.DEPTH_TOLERANCE": (0, 1),
    "TEMPORAL.COLOR_TOLERANCE": (0, math.inf),
    "TEMPORAL.ANGLE": (0.01, 180),
    "RENDER.MARGIN": (-1, 16384),
    "RENDER.FPS": (1, 1000),
    "REFINE.PASSES": (1, 10000),
    "REFINE.STEPS": (1, 100000),
    "REFINE.LR": (0, 1),
    "REFINE.WINDOW": (2, 16),
    "REFINE.ARC_DEGREES": (0.001, 45),
    "REFINE.STEADINESS": (0, math.inf),
    "REFINE.PHOTOMETRIC": (0, math.inf),
    "REFINE.ANCHOR": (0, math.inf),
    "REFINE.DEPTH_TOLERANCE": (1e-6, 1),
    "REFINE.PSNR_DROP": (0, math.inf),
    "REFINE.PATIENCE": (0, 10000),
    "BACKGROUND_GRAY": (0, 255),
    "LOAD_EPOCH": (-1, math.inf),
}

LENGTHS = {
    "INPUT.SIZE_RAW": 2,
    "INPUT.SIZE_TRAIN": 2,
    "INPUT.SIZE_TEST": 2,
    "INPUT.NEAR_FAR_SIZE": 3,
    "DATASETS.ALPHA_BACKGROUND": 3,
    "WEIGHTS.RENDER_WEIGHTS": 7,
    "WEIGHTS.REFINE_WEIGHTS": 4,
}

INTEGER_LISTS = {
    "INPUT.SIZE_RAW",
    "INPUT.SIZE_TRAIN",
    "INPUT.SIZE_TEST",
    "SOLVER.STEPS",
    "SOLVER.LAYER_SCHEDULE",
}

TEXT_LISTS = {"RENDER.VIDEO"}
