"""Every image editor of diffusers behind one adapter.

=====================  =======================================================================
``table``              one row per class of pipelines: how it is called
``inference``          a row for any other class, from its signature
``adapter``            the adapter, which the method ``diffusers`` is
``presets``            published models and their published settings
``stable_diffusion``   the methods of papers on Stable Diffusion, each with options of its own
``base``               what the adapter shares with methods that have a sampling loop of their own
=====================  =======================================================================
"""
