"""Published benchmarks, each read from the files that its authors publish. Nothing is downloaded."""
