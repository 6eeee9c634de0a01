"""A relgraph method in a loop of one's own over several processes: torch's DDP, and the graph of the whole batch.

    torchrun --nproc-per-node 2 experiments/ddp_loop.py

Each process has half of every batch of scikit-learn's digits. `spread_over` gathers the embeddings, so that the loss
and the averaged gradients are those of one process with all of the batch: the last line is the same for any number.
"""

import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import relgraph

BATCH, STEPS = 64, 30


def main() -> None:
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().data).float() / 16
    teacher = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 32)).requires_grad_(False)
    student = DistributedDataParallel(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16)))
    criterion = relgraph.spread_over(relgraph.METHODS["rkd"](nodes="feature"))  # in the method's place
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(step))[:BATCH]
        mine = images[order[rank * BATCH // count : (rank + 1) * BATCH // count]]
        loss = criterion(student(mine), teacher(mine))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    total = loss.detach() / count
    dist.all_reduce(total)
    if rank == 0:
        print(f"loss of the last batch over {count} processes: {total:.4f}")
    dist.barrier()  # the first to leave may otherwise be aborted by torch's own threads as it ends
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
