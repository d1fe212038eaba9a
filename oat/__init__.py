"""Once-for-all adversarial training: the method, its attack, its loop and its evaluation.

Imports torch, torchvision and numpy only, so that it also runs on a machine with nothing else.
"""
