"""How the demo model is made: data generator, tokenizer, training and evaluation. Not imported by the server."""
