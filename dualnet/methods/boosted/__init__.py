"""BoostResNet: a residual net trained block by block, each a weak learner that boosts the sum.

Huang, Ash, Langford and Schapire 2018, "Learning deep ResNet blocks sequentially using boosting
theory", arXiv:1706.04964.
"""
