"""What turns frames into patches, and weights into a model."""
