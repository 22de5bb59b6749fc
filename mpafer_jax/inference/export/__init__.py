"""Trained models in forms that outlive their workdir: prompts alone, or the whole predictor as a program."""
