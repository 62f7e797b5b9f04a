"""Faster training of residual nets: switches on the training of the uncut net.

Solomatov and Stepanov 2017, "Speeding up ResNet training".
"""
