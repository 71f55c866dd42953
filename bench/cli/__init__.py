"""Command groups of the engine. ``run_bench.py`` mounts them."""
