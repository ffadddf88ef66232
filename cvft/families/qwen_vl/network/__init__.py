"""What turns frames and token types into the model's tensors."""
