"""Names that configs bring from elsewhere: other spellings, keys of GUIs, and sd-scripts' keys that are not options here."""

from __future__ import annotations

FLAGS: dict[str, tuple[str, str]] = {
    "use_8bit_adam": ("optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": ("optimizer_type", "Lion"),
    "mem_eff_attn": ("attention", "sdpa"),
    "xformers": ("attention", "xformers"),
    "sdpa": ("attention", "sdpa"),
    "fp8_base": ("quantize_base", "fp8"),
    "fp8_base_unet": ("quantize_base", "fp8"),
}
"""A flag -> the option and value that it stands for when true; false sets nothing. Of two for one option the first here counts."""

IMPLIED: dict[str, str] = {
    "cache_latents_to_disk": "cache_latents",
    "cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs",
}
"""An option that, when true, makes another one true."""

STRONGER_ALIASES = ("lr_scheduler_type", "caption_extention")
"""Aliases that count where the option stands beside them under its own name, as in sd-scripts."""

EMPTY_IS_UNSET = ("optimizer_type", "lr_scheduler", "network_module")
"""Options that empty text leaves at their default, as in sd-scripts."""

GUI_EXTRAS: dict[str, str] = {
    "LoRA_type": "network_module and network_args say what is trained",
    "LyCORIS_preset": "LyCORIS reads preset in network_args",
    "additional_parameters": "set what it holds as options of their own",
    "epoch": "max_train_epochs or max_train_steps says how long the run is",
    "extra_accelerate_launch_args": "give them to `accelerate launch`",
    "gpu_ids": "give it to `accelerate launch`",
    "loraplus_lr_ratio": "LoRA+ is set in network_args",
    "loraplus_text_encoder_lr_ratio": "LoRA+ is set in network_args",
    "loraplus_unet_lr_ratio": "LoRA+ is set in network_args",
    "lowvram": "quantize_base, blocks_to_swap and the presets in presets/memory save memory",
    "main_process_port": "give it to `accelerate launch`",
    "multi_gpu": "give it to `accelerate launch`",
    "noise_offset_type": "noise_offset or multires_noise_iterations says which noise it is",
    "num_cpu_threads_per_process": "give it to `accelerate launch`",
    "num_machines": "give it to `accelerate launch`",
    "num_processes": "give it to `accelerate launch`",
    "sdxl": "the family is recognised from the weights",
    "stop_text_encoder_training": "a text encoder trains through the whole run, or with text_encoder_lr = 0 not at all",
    "use_wandb": "the log is TensorBoard's",
}
"""Keys that kohya's GUI writes and no trainer reads, each with what counts instead; a warning tells it."""

_UPLOAD = "it belongs to an upload to the hub, which huggingface_repo_id would ask for"
_WANDB = "it belongs to wandb, and the log is TensorBoard's"
_DDP = "gradients are averaged without DDP's wrapper"
_DEEPSPEED = "it belongs to deepspeed, which is not used"
_PRECISION = "the network's own weights stay fp32, which costs a few MB; mixed_precision sets the type of all else"

NEEDLESS: dict[str, str] = {
    "async_upload": _UPLOAD,
    "cache_info": "sizes of pictures are always remembered",
    "console_log_level": "messages are few, and each is meant for you",
    "console_log_simple": "messages are plain lines already",
    "cpu_offload_checkpointing": (
        "it changes no number, and activations stay on the device; gradient_checkpointing, quantize_base and blocks_to_swap save memory"
    ),
    "ddp_gradient_as_bucket_view": _DDP,
    "ddp_static_graph": _DDP,
    "ddp_timeout": "processes wait for one another for as long as it takes, and notice at once when one ends",
    "disable_mmap_load_safetensors": "weights are always memory-mapped; to load faster under WSL, keep the model on its own disk",
    "fp16_master_weights_and_gradients": _DEEPSPEED,
    "full_bf16": _PRECISION,
    "full_fp16": _PRECISION,
    "fused_backward_pass": "gradients of a LoRA are small, and share one buffer",
    "highvram": "memory is managed by what is cached",
    "huggingface_path_in_repo": _UPLOAD,
    "huggingface_repo_type": _UPLOAD,
    "huggingface_repo_visibility": _UPLOAD,
    "huggingface_token": _UPLOAD,
    "log_config": "the configuration is always logged",
    "log_tracker_config": _WANDB,
    "lowram": "weights are memory-mapped, straight to where they are used",
    "offload_optimizer_device": _DEEPSPEED,
    "offload_optimizer_nvme_path": _DEEPSPEED,
    "offload_param_device": _DEEPSPEED,
    "offload_param_nvme_path": _DEEPSPEED,
    "skip_cache_check": "caches are found by content, which is the check",
    "tokenizer_cache_dir": "the hub's own cache is used; without a network, name the folder of the tokenizer in it as tokenizer",
    "use_safetensors": "files are always safetensors",
    "wandb_api_key": _WANDB,
    "wandb_run_name": _WANDB,
    "zero3_init_flag": _DEEPSPEED,
    "zero3_save_16bit_model": _DEEPSPEED,
    "zero_stage": _DEEPSPEED,
}
"""sd-scripts' keys without which nothing is lost here, each with the reason; a warning tells it."""

_RESUME = "use save_state and resume, which continue exactly where a run stopped"

NEEDLESS_NETWORK_ARGS: dict[str, str] = {"verbose": "where the network acts is always told"}
"""network_args of sd-scripts' own networks without which nothing is lost, each with the reason."""

REFUSED: dict[str, str] = {
    "console_log_file": "messages go to the console; keep them with `accelerate launch train_network.py ... 2>&1 | tee run.log`",
    "dataset_class": "describe the data with train_data_dir, in_json or dataset tables",
    "debug_dataset": "`dojo check --config ...` looks through pictures and captions; there is no viewer of batches",
    "deepspeed": "a LoRA's optimizer is small; several processes are run by `accelerate launch --multi_gpu`",
    "huggingface_repo_id": (
        "nothing is uploaded while a run goes on; afterwards `hf upload OWNER/NAME OUTPUT_DIR` does it, with what you choose to show"
    ),
    "initial_epoch": _RESUME,
    "initial_step": _RESUME,
    "output_config": (
        "the resolved configuration is always saved in output_dir; `dojo from-sd-scripts` writes a command line as a file"
    ),
    "resume_from_huggingface": "download the state folder (`hf download`) and give its path to resume",
    "save_state_to_huggingface": "upload the state's folder afterwards: `hf upload OWNER/NAME FOLDER`",
    "skip_until_initial_step": _RESUME,
    "train_inpainting": "inpainting models take a mask as further channels; only ordinary models are trained",
    "train_text_encoder": "text encoders are trained unless network_train_unet_only is set; text_encoder_lr is their learning rate",
}
"""sd-scripts' keys whose absence would be felt and that are not offered, each with what to do instead."""

WITHOUT_EFFECT: dict[str, object] = {"initial_epoch": 1, "initial_step": 0}
"""Values of refused keys that ask for nothing."""

_PICKLE = "a pickle can run a program on the machine that loads it, and every reader knows safetensors"
_SYNC = "TensorBoard's log is written, which `wandb sync --sync-tensorboard FOLDER` takes over"

STAND_INS: dict[str, dict[str, tuple[str, str]]] = {
    "log_with": {"all": ("tensorboard", _SYNC), "wandb": ("tensorboard", _SYNC)},
    "save_model_as": {"ckpt": ("safetensors", _PICKLE), "pt": ("safetensors", _PICKLE)},
}
"""Values of sd-scripts' that another one here stands in for, each with the reason; a warning tells it."""

OF_OTHER_FAMILIES: frozenset[str] = frozenset(
    {
        "ae",
        "apply_lg_attn_mask",
        "apply_t5_attn_mask",
        "clip_g",
        "clip_g_dropout_rate",
        "clip_l",
        "clip_l_dropout_rate",
        "discrete_flow_shift",
        "double_blocks_to_swap",
        "enable_scaled_pos_embed",
        "gemma2",
        "guidance_scale",
        "logit_mean",
        "logit_std",
        "mem_eff_save",
        "mode_scale",
        "model_prediction_type",
        "pos_emb_random_crop_rate",
        "qwen3",
        "save_clip",
        "save_t5xxl",
        "sigmoid_scale",
        "single_blocks_to_swap",
        "split_mode",
        "split_qkv",
        "t5_dropout_rate",
        "t5xxl",
        "t5xxl_device",
        "t5xxl_dtype",
        "t5xxl_max_token_length",
        "timestep_sampling",
        "train_t5xxl",
        "training_shift",
        "weighting_scheme",
    }
)
"""Keys of sd-scripts' scripts for FLUX, SD 3 and other families that are not trained here."""

ONLY_VALUE: dict[str, tuple[str, str]] = {
    "save_model_as": ("safetensors", _PICKLE),
}
"""sd-scripts' keys of which one value alone is offered, and why; it needs not be given."""
