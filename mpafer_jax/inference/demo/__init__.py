"""Web demo: a photo or the camera in; face, probabilities, heat maps and descriptions out."""
