"""Names that configs bring from elsewhere: other spellings, keys of kohya's GUI, and sd-scripts' keys that are not options here."""

from __future__ import annotations

FLAGS: dict[str, tuple[str, str]] = {
    "use_8bit_adam": ("optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": ("optimizer_type", "Lion"),
    "xformers": ("attention", "xformers"),
    "sdpa": ("attention", "sdpa"),
    "mem_eff_attn": ("attention", "sdpa"),
    "fp8_base": ("quantize_base", "fp8"),
    "fp8_base_unet": ("quantize_base", "fp8"),
}
"""A flag -> the option and value that it stands for when true; false sets nothing."""

IMPLIED: dict[str, str] = {
    "cache_latents_to_disk": "cache_latents",
    "cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs",
}
"""An option that, when true, makes another one true."""

GUI_EXTRAS: frozenset[str] = frozenset(
    {
        "LoRA_type",
        "LyCORIS_preset",
        "additional_parameters",
        "epoch",
        "extra_accelerate_launch_args",
        "gpu_ids",
        "loraplus_lr_ratio",
        "loraplus_text_encoder_lr_ratio",
        "loraplus_unet_lr_ratio",
        "main_process_port",
        "multi_gpu",
        "noise_offset_type",
        "num_cpu_threads_per_process",
        "num_machines",
        "num_processes",
        "sdxl",
        "stop_text_encoder_training",
        "use_wandb",
    }
)
"""Keys that kohya's GUI writes into its files and that no trainer reads."""

_UPLOAD = "nothing is uploaded; the files are in output_dir"
_WANDB = "the log is TensorBoard's"
_DDP = "gradients are averaged without DDP's wrapper"

IGNORED: dict[str, str] = {
    "async_upload": _UPLOAD,
    "cache_info": "sizes of pictures are always remembered",
    "console_log_file": "messages go to the console",
    "console_log_level": "messages go to the console",
    "console_log_simple": "messages go to the console",
    "cpu_offload_checkpointing": "gradient_checkpointing keeps its activations on the device",
    "ddp_gradient_as_bucket_view": _DDP,
    "ddp_static_graph": _DDP,
    "ddp_timeout": "the launcher's own timeout holds",
    "disable_mmap_load_safetensors": "weights are always memory-mapped",
    "full_bf16": "the network's own weights stay fp32; mixed_precision sets the type of all else",
    "full_fp16": "the network's own weights stay fp32; mixed_precision sets the type of all else",
    "fused_backward_pass": "gradients of a LoRA are small",
    "highvram": "memory is managed by what is cached",
    "huggingface_path_in_repo": _UPLOAD,
    "huggingface_repo_id": _UPLOAD,
    "huggingface_repo_type": _UPLOAD,
    "huggingface_repo_visibility": _UPLOAD,
    "huggingface_token": _UPLOAD,
    "log_config": "the configuration is always logged",
    "log_tracker_config": _WANDB,
    "lowram": "weights are memory-mapped, straight to where they are used",
    "save_state_to_huggingface": _UPLOAD,
    "skip_cache_check": "caches are found by content, which is the check",
    "tokenizer_cache_dir": "use tokenizer, or the hub's own cache",
    "use_safetensors": "files are always safetensors",
    "wandb_api_key": _WANDB,
    "wandb_run_name": _WANDB,
}
"""sd-scripts' keys that change no result here, each with the reason; a warning tells it."""

REFUSED: dict[str, str] = {
    "dataset_class": "describe the data with train_data_dir, in_json or dataset tables",
    "debug_dataset": "use --explain to see the configuration; there is no viewer of batches",
    "deepspeed": "several processes are run by `accelerate launch --multi_gpu`",
    "initial_epoch": "use resume, which continues exactly where a run stopped",
    "initial_step": "use resume, which continues exactly where a run stopped",
    "output_config": "the resolved configuration is always saved in output_dir",
    "resume_from_huggingface": "download the state folder and give its path to resume",
    "skip_image_resolution": "remove small pictures from the folder, or set bucket_no_upscale",
    "skip_until_initial_step": "use resume, which continues exactly where a run stopped",
}
"""sd-scripts' keys that would change the result and are not offered, each with what to do instead."""

ONLY_VALUE: dict[str, str] = {"save_model_as": "safetensors"}
"""sd-scripts' keys of which one value alone is offered; it needs not be given."""
