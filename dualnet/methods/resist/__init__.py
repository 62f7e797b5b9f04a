"""ResIST: sites train residual sub-nets that share the early layers and deal out the long section.

Dun et al. 2021, "ResIST: layer-wise decomposition of ResNets for distributed training".
"""
