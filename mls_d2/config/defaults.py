"""Every config key that mls_d2 adds to Detectron2's, with default, unit and range."""

try:
    from detectron2.config import CfgNode
    from detectron2.config import get_cfg as get_detectron2_cfg
except ModuleNotFoundError as error:
    raise ImportError(
        "mls_d2 needs Detectron2, which has no release on the package index: run `make setup` or "
        "`mls-detectron2`, or install it as its project describes"
    ) from error

from mls_d2.config.options import OPTIONS


def get_cfg() -> CfgNode:
    """Return Detectron2's default config with the keys of this project added.

    The options of pretraining methods are there after ``import pretrain.methods``.

    Detectron2's own keys keep their meaning in pretraining: ``SOLVER.IMS_PER_BATCH`` (images, each
    seen as two views, over all processes), ``SOLVER.BASE_LR``, ``SOLVER.MOMENTUM``,
    ``SOLVER.WEIGHT_DECAY``, ``SOLVER.CHECKPOINT_PERIOD``, ``DATASETS.TRAIN``,
    ``DATALOADER.NUM_WORKERS``, ``MODEL.RESNETS.*``, ``MODEL.PIXEL_MEAN/STD`` (0–255 scale),
    ``SEED``, ``OUTPUT_DIR``.
    """
    cfg = get_detectron2_cfg()
    _add_project_keys(cfg)
    _add_pretrain_keys(cfg)
    _add_method_keys(cfg)
    _add_segmentation_keys(cfg)
    _add_classification_keys(cfg)
    return cfg


def _add_project_keys(cfg: CfgNode) -> None:
    # Kind of recipe: "quick" (scenes, minutes on a CPU), "onegpu", "paper" or "custom".
    cfg.PRESET = "custom"
    # Where scalars go beside metrics.json and TensorBoard: "wandb" (Weights & Biases), "mlflow".
    cfg.TRACKERS = ()
    # Accept weights whose file states another colour order, pixel mean or std, or stride placement
    # than this config; False refuses them.
    cfg.MODEL.ALLOW_INPUT_MISMATCH = False
    # Write the detections of an evaluation beside results.json, in COCO's result format, for
    # datasets in COCO's layout: predictions-<dataset>.json.
    cfg.TEST.SAVE_PREDICTIONS = False


def _add_pretrain_keys(cfg: CfgNode) -> None:
    cfg.PRETRAIN = node = CfgNode()
    # A name in pretrain.methods.METHODS.
    node.METHOD = "mls"
    # Length of pretraining in passes over the data (> 0, may be fractional).
    node.EPOCHS = 400.0
    # "sgd", "lars" for batches of a thousand and more (arXiv 1708.03888), or "larc" (SwAV), which
    # adapts biases and norms, too; all take the SOLVER's BASE_LR, MOMENTUM, WEIGHT_DECAY,
    # WEIGHT_DECAY_NORM (norms) and WEIGHT_DECAY_BIAS (biases).
    node.OPTIMIZER = "sgd"
    # Linear warm-up of the learning rate from 0, in epochs (>= 0).
    node.WARMUP_EPOCHS = 0.0
    # Statistics of BatchNorm. "shuffled": each process's own images, keys shuffled among
    # the processes (MoCo); "local": the same without shuffling; "sync": the whole batch.
    node.BATCH_NORM = "shuffled"
    # Parts into which BatchNorm splits a process's images (>= 1): 8 on one big GPU is 8 processes.
    node.BATCH_NORM_GROUPS = 1
    # With SOLVER.AMP.ENABLED: "bfloat16"; "float16", which scales the gradients and waits for the
    # device once per step; or "auto": "float16" on GPUs that lack bfloat16 (before Ampere) alone.
    node.AMP_DTYPE = "auto"
    # Compile the encoders with torch.compile: minutes at the start, faster steps on recent GPUs.
    node.COMPILE = False
    # Largest share of unreadable images tolerated before the run stops, in [0, 1].
    node.MAX_BROKEN_SHARE = 0.01
    # File of object proposals of DATASETS.TRAIN, for methods that need them; it is made if it is
    # missing. "" is one below the folder of the datasets.
    node.PROPOSALS = ""
    # File of correspondences between the objects of DATASETS.TRAIN (ORL); it is made if it is
    # missing. "" is one in OUTPUT_DIR.
    node.CORRESPONDENCES = ""
    # Pixels to which an image's shorter side is reduced before proposals are searched in it (>= 0);
    # 0 is full size.
    node.PROPOSALS_SIDE = 0
    # "full", or "reduced": JPEGs at a half, a quarter or an eighth of their size if no view is
    # enlarged by that (docs/input.md).
    node.DECODE = "full"
    # Tar shards whose images are mixed (>= 1); shards are read in random order.
    node.SHARD_WINDOW = 16
    # Iterations between two entries in the metrics (>= 1).
    node.LOG_PERIOD = 20
    # How many periodic checkpoints are kept (>= 1).
    node.KEEP_CHECKPOINTS = 2
    # Epochs between two checkpoints that are never removed (>= 0); less than a step is none.
    node.PERMANENT_PERIOD = 0.0

    # Measure how often pseudo-labels are right, with the annotations of DATASETS.TRAIN, which are
    # not trained on (docs/monitoring.md).
    node.LABEL_QUALITY = False
    node.ONLINE_EVAL = online = CfgNode()
    # Epochs between two evaluations by nearest neighbours (> 0), on labelled datasets of the
    # catalog; 0 is never.
    online.PERIOD = 0.0
    online.TRAIN = "coco_2017_train"
    online.TEST = "coco_2017_val"
    # Images of each, evenly spaced (>= 1).
    online.MAX_IMAGES = 2000

    _add_augment_keys(node)


def _add_augment_keys(node: CfgNode) -> None:
    node.AUGMENT = augment = CfgNode()
    # Side of the square crops, in pixels.
    augment.CROP_SIZE = 224
    # Area of a crop as a share of the image's, lower and upper bound in (0, 1].
    augment.CROP_SCALE = (0.2, 1.0)
    # Probability of a horizontal flip, in [0, 1].
    augment.FLIP_PROB = 0.5
    # Probability of colour jitter, and its strengths: brightness, contrast and saturation
    # factors are drawn from [1 - s, 1 + s], the hue shift from [-s, s] of a full turn (s <= 0.5).
    augment.JITTER_PROB = 0.8
    augment.BRIGHTNESS = 0.4
    augment.CONTRAST = 0.4
    augment.SATURATION = 0.4
    augment.HUE = 0.1
    # Probability of conversion to grey, in [0, 1].
    augment.GRAY_PROB = 0.2
    # Probability of a Gaussian blur, and the bounds of its standard deviation in pixels.
    augment.BLUR_PROB = 0.5
    augment.BLUR_SIGMA = (0.1, 2.0)
    # Probability of solarization: values above one half are inverted (BYOL), in [0, 1].
    augment.SOLARIZE_PROB = 0.0
    # What differs in second and in local views (BYOL, DINO), in [0, 1]; None: as in first ones.
    # Several numbers are those of equal parts of the local views (ORL).
    augment.VIEW2 = CfgNode({"BLUR_PROB": None, "SOLARIZE_PROB": None})
    augment.LOCAL = CfgNode({"BLUR_PROB": None, "SOLARIZE_PROB": None})
    # Multi-crop: number of small views per image (>= 0) that follow the two, for the methods that
    # take them; their side in pixels, and bounds of their area as in CROP_SCALE.
    augment.LOCAL_CROPS = 0
    augment.LOCAL_SIZE = 96
    augment.LOCAL_SCALE = (0.05, 0.14)


def _add_method_keys(cfg: CfgNode) -> None:
    """Add the options of every registered method, in the group of the class that declares them."""
    for options in OPTIONS.values():
        for key in options.config_keys():
            group, leaf = key.name.split(".")
            if group not in cfg:
                cfg[group] = CfgNode()
            cfg[group][leaf] = key.default


def _add_segmentation_keys(cfg: CfgNode) -> None:
    # Of build_dilated_resnet_backbone: side of an image over side of the last features; 8, 16, 32.
    cfg.MODEL.RESNETS.OUTPUT_STRIDE = 8
    # SEM_SEG_HEAD.NAME is "PSPHead" or "PSAHead" if the META_ARCHITECTURE is "EncoderDecoder";
    # Detectron2's IN_FEATURES (one), IGNORE_VALUE, NUM_CLASSES, CONVS_DIM and NORM apply, too.
    head = cfg.MODEL.SEM_SEG_HEAD
    # Share of channels dropped before the classifiers, in [0, 1).
    head.DROPOUT = 0.1
    # Whether bilinear upsampling keeps the corners: with crops of 8n + 1 pixels.
    head.ALIGN_CORNERS = False
    # PSPHead: cells along each side of the pooled maps (>= 1).
    head.POOL_SCALES = (1, 2, 3, 6)
    # PSAHead: (height, width) of a mask in positions of the shrunk map, both odd.
    head.PSA_MASK_SIZE = (97, 97)
    cfg.MODEL.AUXILIARY_HEAD = auxiliary = CfgNode()
    # One of MODEL.RESNETS.OUT_FEATURES.
    auxiliary.IN_FEATURES = ["res4"]
    # Channels of its hidden convolution.
    auxiliary.CONVS_DIM = 256
    # Weight of the auxiliary loss (>= 0).
    auxiliary.LOSS_WEIGHT = 0.4

    cfg.INPUT.SEGMENTATION = node = CfgNode()
    # (height, width) that an image is scaled to fit in, in training times a random ratio.
    node.BASE_SIZE = (1024, 2048)
    # Bounds of that ratio (> 0).
    node.SCALE_RANGE = (0.5, 2.0)
    # (height, width) of training crops, in pixels.
    node.CROP_SIZE = (512, 1024)
    # Largest share of one class among a crop's labelled pixels, in (0, 1]; 1 takes any crop.
    node.MAX_CLASS_SHARE = 0.75

    # (height, width) of the windows into which test images are cut, in pixels, and (vertical,
    # horizontal) distance between them; a window of zeros takes images whole.
    cfg.TEST.SLIDING_WINDOW = (0, 0)
    cfg.TEST.SLIDING_STRIDE = (513, 513)

    # Of LR_SCHEDULER_NAME "WarmupPolyLR", in segmentation: the learning rate at iteration t is
    # BASE_LR · ((1 - POLY_FLOOR) · (1 - t / MAX_ITER)^POLY_POWER + POLY_FLOOR); POLY_POWER > 0 and
    # POLY_FLOOR in [0, 1].
    cfg.SOLVER.POLY_POWER = 0.9
    cfg.SOLVER.POLY_FLOOR = 0.0


def _add_classification_keys(cfg: CfgNode) -> None:
    cfg.MODEL.CLASSIFIER = node = CfgNode()
    # Classes of the dataset (>= 2), and whether an image may show several of them.
    node.NUM_CLASSES = 1000
    node.MULTI_LABEL = False
    # Head on the pooled feature. Trained by SGD: "linear", or "bn_linear" with a BatchNorm
    # without weights before it. Fitted to the features of the training set, with SOLVER.MAX_ITER 0:
    # "svm" (linear, one per class) or "knn" (weighted nearest neighbours).
    node.HEAD = "linear"
    # Side of the window of the average pool over the last feature (stride 1, all means are
    # concatenated); 0 is the mean over all positions.
    node.POOL_SIZE = 0
    # Train the head alone, on a backbone in evaluation mode: a linear probe.
    node.FREEZE_BACKBONE = False
    # Values of the SVM's C to choose from (> 0), by cross-validation.
    node.SVM_COSTS = (1.0, 10.0, 100.0)
    # Neighbours (>= 1), and the temperature of their weights (> 0).
    node.KNN_K = 20
    node.KNN_TEMPERATURE = 0.07

    cfg.CLASSIFICATION = node = CfgNode()
    # Side of the network's square input, in pixels (>= 32).
    node.CROP_SIZE = 224
    # Training: "random_resized" (area as a share of the image's from CROP_SCALE, in (0, 1]) or
    # "random" (a square of CROP_SIZE, after the shorter side was resized to RESIZE).
    node.TRAIN_CROP = "random_resized"
    node.CROP_SCALE = (0.08, 1.0)
    # Test: "center" (the central square, after the shorter side was resized to RESIZE) or "squash"
    # (the whole image, resized to a square).
    node.TEST_CROP = "center"
    # Length of the shorter side before a crop, in pixels (>= CROP_SIZE).
    node.RESIZE = 256
