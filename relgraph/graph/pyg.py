"""What is used of PyTorch Geometric: imported inside functions, since it takes a second, and without its warnings.

Its import decorates functions by torch.jit.script, which newer versions of torch call deprecated; a user can do nothing
there.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
    import torch_geometric.nn.conv as convolutions
    from torch_geometric.data import Batch as GraphBatch
    from torch_geometric.data import HeteroData as HeteroData
    from torch_geometric.nn.pool import MIPSKNNIndex as MIPSKNNIndex
    from torch_geometric.utils import scatter as scatter
    from torch_geometric.utils import to_undirected as to_undirected

__all__ = ["GraphBatch", "HeteroData", "MIPSKNNIndex", "convolutions", "scatter", "to_undirected"]
