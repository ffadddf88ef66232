"""What turns frames into pixels, and weights into a model."""
