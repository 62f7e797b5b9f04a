"""Speed and memory, measured as ratios within one run; `results/bench.md` is rendered from them."""
