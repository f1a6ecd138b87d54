"""From images to rows of numbers that are kept."""
