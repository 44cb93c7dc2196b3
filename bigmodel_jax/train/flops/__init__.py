"""FLOPs of a training step: counted in its program without compiling it, and the utilization of the devices."""
