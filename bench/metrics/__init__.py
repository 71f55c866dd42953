"""The metrics of this suite by name. Importing this package imports neither torch nor any metric."""

from __future__ import annotations

from bench.metrics.types import (
    COMPOSITED_SUFFIX,
    OUTCOME,
    Area,
    Metric,
    MetricBase,
    MetricError,
    MetricInfo,
    NoValue,
    Pair,
    ReasonCode,
    RgbImage,
    SetMetric,
    SetValue,
    Value,
    info_of,
    raw_name,
)

# Name -> ``"module:Class"``, in the order of the tables.
METRICS: dict[str, str] = {
    "success_truth": "bench.metrics.success:SuccessTruth",
    "success_clip": "bench.metrics.success:SuccessClip",
    "success_mini_clip": "bench.metrics.success:SuccessMiniClip",
    "judge_truth": "bench.metrics.success:JudgeTruth",
    "judge_clip": "bench.metrics.success:JudgeClip",
    "judge_mini_clip": "bench.metrics.success:JudgeMiniClip",
    "edit_change": "bench.metrics.leakage:EditChange",
    "edit_area": "bench.metrics.leakage:EditArea",
    "truth_lpips": "bench.metrics.ground_truth:TruthLpips",
    "truth_rmse": "bench.metrics.ground_truth:TruthRmse",
    "truth_ssim": "bench.metrics.ground_truth:TruthSsim",
    "leak_lpips": "bench.metrics.leakage:LeakLpips",
    "leak_lpips_undiluted": "bench.metrics.leakage:LeakLpipsUndiluted",
    "leak_lpips_vgg": "bench.metrics.leakage:LeakLpipsVgg",
    "leak_lpips_edge": "bench.metrics.leakage:LeakLpipsEdge",
    "leak_lpips_near": "bench.metrics.leakage:LeakLpipsNear",
    "leak_lpips_mid": "bench.metrics.leakage:LeakLpipsMid",
    "leak_lpips_far": "bench.metrics.leakage:LeakLpipsFar",
    "leak_psnr": "bench.metrics.leakage:LeakPsnr",
    "leak_ssim": "bench.metrics.leakage:LeakSsim",
    "leak_mse": "bench.metrics.leakage:LeakMse",
    "leak_changed": "bench.metrics.leakage:LeakChanged",
    "leak_area": "bench.metrics.leakage:LeakArea",
    "clip_target": "bench.metrics.alignment:ClipTarget",
    "clip_region": "bench.metrics.alignment:ClipRegion",
    "clip_directional": "bench.metrics.alignment:ClipDirectional",
    "mini_clip_target": "bench.metrics.alignment:MiniClipTarget",
    "mini_clip_region": "bench.metrics.alignment:MiniClipRegion",
    "mini_clip_directional": "bench.metrics.alignment:MiniClipDirectional",
    "fid": "bench.metrics.realism:Fid",
    "kid": "bench.metrics.realism:Kid",
    "cmmd": "bench.metrics.realism:Cmmd",
    "vgg16_frechet": "bench.metrics.realism:Vgg16Frechet",
    "vgg16_kid": "bench.metrics.realism:Vgg16Kid",
    "mini_clip_cmmd": "bench.metrics.realism:MiniClipCmmd",
}

# Published metric -> metric that replaces it, under its own name, where its weights are missing. A stand-in whose
# network is embedded (``embedded = True``: the mini CLIP) is used on the rendered world alone. VGG16 has ImageNet
# weights, so ``vgg16_frechet`` and ``vgg16_kid`` are used on any data.
STAND_INS: dict[str, str] = {
    "success_clip": "success_mini_clip",
    "judge_clip": "judge_mini_clip",
    "clip_target": "mini_clip_target",
    "clip_region": "mini_clip_region",
    "clip_directional": "mini_clip_directional",
    "fid": "vgg16_frechet",
    "kid": "vgg16_kid",
    "cmmd": "mini_clip_cmmd",
}

__all__ = [
    "COMPOSITED_SUFFIX",
    "METRICS",
    "OUTCOME",
    "STAND_INS",
    "Area",
    "Metric",
    "MetricBase",
    "MetricError",
    "MetricInfo",
    "NoValue",
    "Pair",
    "ReasonCode",
    "RgbImage",
    "SetMetric",
    "SetValue",
    "Value",
    "info_of",
    "raw_name",
]
