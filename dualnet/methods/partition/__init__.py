"""Pre-training by partitioning: sub-models trained apart, merged into the start of the whole net.

Miranda and Von Zuben 2016, "Reducing the training time of neural networks by partitioning".
"""
