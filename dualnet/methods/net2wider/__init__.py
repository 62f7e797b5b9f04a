"""Net2WiderNet: a trained narrow net, the teacher, becomes the start of a wider one.

Chen, Goodfellow and Shlens 2016, "Net2Net: accelerating learning via knowledge transfer".
"""
