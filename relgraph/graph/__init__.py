"""The core: kernels, topologies, scales, criteria, relations, memory, and the graph pair with its refinement."""
