"""From the bytes of a file to a lazy batch of images."""
