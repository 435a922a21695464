"""The small encoders of parity.encoders, and what it and the tests feed them; a file without torch."""

FAMILIES = ("bert-multilingual", "roberta", "xlm-roberta", "distilbert", "electra")

TEXTS = ["the cat is not on the dog", "who?", "a woman, good and bad: Ж 中文 über"]
PAIRS = [("the man", "what is a cat"), ("good dog 42", "bad"), ("in", "of the woman and the man")]
