"""Small networks of other projects, trained on Fashion-MNIST as their users would: with their own code alone."""
