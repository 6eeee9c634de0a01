"""The networks on both sides: students, their heads, and frozen teachers."""
