"""The benchmarks: each name stands for ``module:Class``, imported when it is used."""

from __future__ import annotations

PROTOCOLS: dict[str, str] = {
    "celeba_hq": "protocols.celeba_hq:CelebAHQ",
    "coco": "protocols.coco:Coco",
    "pie_bench": "protocols.published.pie_bench:PieBench",
    "magicbrush": "protocols.published.magicbrush:MagicBrush",
    "brushbench": "protocols.published.brushbench:BrushBench",
    "editbench": "protocols.published.editbench:EditBench",
    "gedit": "protocols.published.gedit:GEdit",
    "imgedit": "protocols.published.imgedit:ImgEdit",
    "kontext_bench": "protocols.published.kontext_bench:KontextBench",
    "emu_edit": "protocols.published.emu_edit:EmuEdit",
    "compbench": "protocols.published.compbench:CompBench",
    "mini-celeba-hq": "protocols.world:MiniCelebAHQ",
    "mini-coco": "protocols.world:MiniCoco",
    "mini-gedit": "protocols.world.mini_gedit:MiniGEdit",
    "mini-celeba-hq-sloppy": "protocols.world.sloppy:SloppyCelebAHQ",
    "mini-coco-sloppy": "protocols.world.sloppy:SloppyCoco",
    "world-level-2": "protocols.world.levels:WorldLevel2",
    "world-level-3": "protocols.world.levels:WorldLevel3",
    "world-512-faces": "protocols.world.large:WorldFaces",
    "world-512-scenes": "protocols.world.large:WorldScenes",
    "world-1024-faces": "protocols.world.large:WorldFaces1024",
    "world-1024-scenes": "protocols.world.large:WorldScenes1024",
}
