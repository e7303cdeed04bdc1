"""One case on its way to the network and back."""
