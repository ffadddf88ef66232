"""What the torch halves of several families share: groups, their attention, the loss of label tokens, greedy answers."""
