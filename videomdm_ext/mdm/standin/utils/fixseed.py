"""One seed for Python's, numpy's and torch's global generators."""

import random

import numpy as np
import torch


def fixseed(seed):
    torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
