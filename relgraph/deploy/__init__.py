"""What a trained student is used for outside of training."""
