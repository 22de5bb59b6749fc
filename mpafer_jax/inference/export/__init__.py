"""Portable exports of trained models: the prompts alone, or the whole predictor as a program."""
