"""The core: kernels, topologies, scales and criteria, relations, memory, and the explicit graph pair with its refinement."""
