"""Data, training steps, in-jit sweeps over (learning rate x seed), checkpoints and result rows."""
