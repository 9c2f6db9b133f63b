"""The studies of the paper by name, with its numbers beside them, at full scale and in miniature.

Paper: He, Girshick, Dollar 2018, Rethinking ImageNet Pre-training (arXiv 1811.08883).
"""
