"""Names of adapters and heads that the library can carry: those of folders and of torch modules at once."""

from adapters_jax.interop.rules import Refusal

RESERVED = frozenset(
    (
        "T_destination add_module apply bfloat16 bias buffers call_super_init children clear compile cpu cuda double "
        "dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu "
        "items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters "
        "parameters pop register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
        "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
        "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
        "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory smart_apply state_dict "
        "to to_empty train training type update values weight xpu zero_grad"
    ).split()
)
"""Attributes of torch.nn.ModuleDict, which holds adapters by their names (parity/adapterhub_files.py lists them)."""

NAMES = (
    Refusal(
        "a name that is empty, has . / \\ or a comma, or is longer than 100 characters",
        "it is part of the names of folders and tensors: expected a plain one",
        lambda name: not name or set(name) & set("./\\,") or not name.isprintable() or len(name) > 100,
        lambda name: name,
    ),
    Refusal(
        "a name that torch's modules have themselves (train, type, _...)",
        "the library keeps adapters as attributes: expected another one, such as my_train",
        lambda name: name in RESERVED or name.startswith("_"),
        lambda name: name,
    ),
)
