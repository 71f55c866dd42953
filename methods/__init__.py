"""The editing methods. Each implements its paper, behind the interface ``bench.edit.EditMethod``.

The table maps a name to a class that is imported when the name is used, so that listing the methods is quick.
"""

from __future__ import annotations

from collections.abc import Mapping

# Method name -> "module:Class".
METHODS: Mapping[str, str] = {
    "copy_input": "methods.controls:CopyInput",
    "oracle": "methods.controls:Oracle",
    "jpeg": "methods.controls:Jpeg",
    "resize_round_trip": "methods.controls:ResizeRoundTrip",
    "autoencoder_round_trip": "methods.controls:AutoencoderRoundTrip",
    "noise_fill": "methods.controls:NoiseFill",
    "flat_color_fill": "methods.controls:FlatColorFill",
    "sd_inpainting": "methods.diffusion.stable_diffusion:SdInpainting",
    "instruct_pix2pix": "methods.diffusion.stable_diffusion:InstructPix2Pix",
    "glide": "methods.glide.method:Glide",
    "blended_diffusion": "methods.blended_diffusion.method:BlendedDiffusion",
    "blended_latent_diffusion": "methods.blended_latent_diffusion:BlendedLatentDiffusion",
    "latent_blending": "methods.latent_blending:LatentBlending",
    "sdedit": "methods.diffusion.stable_diffusion:SdEdit",
    "controlnet_inpaint": "methods.diffusion.stable_diffusion:ControlNetInpaint",
    "diffusers": "methods.diffusion.adapter:Diffusers",
    "smartbrush": "methods.smartbrush.method:SmartBrush",
    "instance_diffusion": "methods.instance_diffusion.method:InstanceDiffusion",
    "prompt_to_prompt": "methods.prompt_to_prompt.method:PromptToPrompt",
    "dynamic_prompt_learning": "methods.dynamic_prompt_learning.method:DynamicPromptLearning",
    "attend_and_excite": "methods.attend_and_excite.method:AttendAndExcite",
    "repaint": "methods.repaint.method:RePaint",
    "lama": "methods.lama.method:Lama",
    "outputs": "methods.outputs:Outputs",
    "openai_images": "methods.endpoints.openai_images:OpenAiImages",
    "openai_edit": "methods.endpoints.openai_images:OpenAiEdit",
    "gemini_edit": "methods.endpoints.gemini:GeminiEdit",
    "prompt_edit_diff": "methods.prompt_edit_diff.method:PromptEditDiff",
    "prompt_edit_diff_no_prompt_tokens": "methods.prompt_edit_diff.method:PromptEditDiffNoPromptTokens",
    "prompt_edit_diff_no_cross_attention": "methods.prompt_edit_diff.method:PromptEditDiffNoCrossAttention",
    "prompt_edit_diff_no_mask_encoder": "methods.prompt_edit_diff.method:PromptEditDiffNoMaskEncoder",
}
