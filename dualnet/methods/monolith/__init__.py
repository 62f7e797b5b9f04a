"""MonolithNet: trunks trained apart, then a head that reads them all, then everything together.

Bidart and Wong 2018, "MonolithNet: Training monolithic deep neural networks via a partitioned
training strategy".
"""
