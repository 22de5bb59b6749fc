"""A page for trying a model: a photo or the camera in; face, probabilities, heat maps and phrases out."""
