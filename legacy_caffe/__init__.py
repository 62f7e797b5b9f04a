"""The dual net of Dziwulski 2017 for BVLC Caffe 1.0 and pycaffe; see README.md."""
