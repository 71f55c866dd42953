"""The attention maps of a Stable Diffusion UNet: an attention processor that a method can read and change, and the
tokens of words.

Prompt-to-Prompt replaces the maps, Attend-and-Excite and Dynamic Prompt Learning compute losses on them.
"""
