"""Small encoders of the families beside BERT, three layers of width 16: for tests over methods."""

import adapters_jax as aj

SHAPES: dict[str, dict] = {
    "roberta": {"position_offset": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {"position_offset": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {},
    "electra": {"embedding_size": 8},
}
CONFIGS = {
    name: aj.BertConfig.tiny(num_hidden_layers=3, model_type=name, **changes) for name, changes in SHAPES.items()
}
