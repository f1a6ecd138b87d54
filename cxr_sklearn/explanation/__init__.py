"""Heat maps of what a score rests on: Grad-CAM and occlusion."""
